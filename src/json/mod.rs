//! JSON text that is edited where it lies: what is not touched keeps every byte, its spaces, its
//! escapes and its numbers however long.
//!
//! - [`scan`]: the grammar (RFC 8259), where values begin and end;
//! - [`Object`]: the members of an object as pieces of the text they came from.

mod object;
pub mod scan;

pub use object::{EditError, Object, Path, text_bytes};
pub use scan::{JsonError, Kind};
