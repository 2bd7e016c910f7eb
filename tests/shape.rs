//! Every provider's stream through every shaping: what is told is what was said, however the
//! bytes arrive, and no end is told that the provider did not reach.

#[path = "shape/fixtures.rs"]
mod fixtures;
mod queue;
#[path = "shape/splits.rs"]
mod splits;
#[path = "shape/stream.rs"]
mod stream;
#[path = "shape/table.rs"]
mod table;
#[path = "shape/text.rs"]
mod text;
#[path = "shape/told.rs"]
mod told;
