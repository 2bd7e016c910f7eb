//! Event streams as bytes (HTML Standard, section 9.2 "Server-sent events").
//!
//! - [`scanner`] finds where frames end, in place, across any split of the bytes;
//! - [`event`] reads the fields of one frame, lazily, and holds a small whole-stream parser;
//! - [`frames`] lends whole frames to those who rewrite them;
//! - [`encode()`] writes events and comments;
//! - [`sequence`] names the frames of a stream that can be resumed.
//!
//! The relay's own path uses only the scanner: frames go downstream as the bytes they came in.

pub mod encode;
pub mod event;
pub mod frames;
pub mod scanner;
pub mod sequence;

pub use encode::{EncodeError, EventText, encode};
pub use event::{Event, Field, Line, Message, Parser, ParserFull, fields, lines};
pub use frames::{FrameTooLarge, Frames};
pub use scanner::{Scan, Scanner};

/// The byte order mark that a stream may begin with; `UTF-8 decode` drops it.
pub const BOM: &[u8] = b"\xEF\xBB\xBF";
