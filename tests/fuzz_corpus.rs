//! The committed inputs of the fuzz targets, replayed without a fuzzer: the corpus, and one input
//! for each fault that fuzzing has found (`fuzz/README.md`).

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod checks;

fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    inputs.sort();
    inputs
}

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = inputs("corpus", target);
    assert!(!corpus.is_empty(), "the corpus of {target} is missing");
    for path in corpus.into_iter().chain(inputs("regressions", target)) {
        let bytes = fs::read(&path).expect("readable");
        assert!(catch_unwind(|| check(&bytes)).is_ok(), "{} fails", path.display());
    }
}

#[test]
fn head() {
    replay("head", checks::head::check);
}

#[test]
fn chunked() {
    replay("chunked", checks::chunked::check);
}

#[test]
fn scanner() {
    replay("scanner", checks::scanner::check);
}

#[test]
fn exchange() {
    replay("exchange", checks::exchange::check);
}

#[test]
fn records() {
    replay("records", checks::records::check);
}

#[test]
fn shape() {
    replay("shape", checks::shape::check);
}

#[test]
fn json() {
    replay("json", checks::json::check);
}

#[test]
fn kept() {
    replay("kept", checks::kept::check);
}
