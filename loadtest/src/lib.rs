//! Load tests of Millstream beside its peers and bare pumps. See README.md.

pub mod beside;
pub mod client;
pub mod clock;
pub mod cores;
pub mod draw;
pub mod frame;
pub mod machine;
pub mod numbered;
pub mod origin;
pub mod pump;
pub mod report;
pub mod result;
pub mod run;
pub mod sample;
pub mod scenario;
pub mod schedule;
pub mod shape;
pub mod suite;
pub mod summary;
pub mod systems;
pub mod table;
pub mod tls;
pub mod transport;
pub mod verdict;
pub mod wire;
