//! The floors hold: a module uses only floors below its own, or its own.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of each floor, lowest first; see ARCHITECTURE.md.
const FLOORS: [&[&str]; 6] = [
    &["buf", "clock", "error", "limits", "outcome"],
    &["dialect", "http1", "json", "sse"],
    &["balance", "config", "flow", "route", "shape", "telemetry"],
    &["net", "upstream"],
    &["admin", "relay"],
    &["demo", "main", "mock", "server", "worker"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Every module named by `use crate::` or `crate::` in `text`.
fn used(text: &str) -> Vec<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1).map(word).collect::<Vec<String>>()).collect()
}

#[test]
fn every_module_keeps_to_its_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20);
    for file in files {
        let place = file.strip_prefix(&root).expect("inside");
        let module = place.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let own = floor(module).unwrap_or_else(|| panic!("{module} has no floor"));
        let text = fs::read_to_string(&file).expect("readable");
        for other in used(&text) {
            let below =
                floor(&other).unwrap_or_else(|| panic!("{}: crate::{other}?", place.display()));
            assert!(below <= own, "{}: floor {own} uses {other} of floor {below}", place.display());
        }
        if own <= 2 && !place.starts_with("telemetry") {
            for word in ["std::net::Tcp", "monoio", "Instant::now", "SystemTime::now", "rustix"] {
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let knows = code
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(word));
                let excused = module == "clock";
                assert!(!knows || excused, "{}: floor {own} knows {word}", place.display());
            }
        }
    }
}

#[test]
fn no_source_file_has_outgrown_its_room() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let lines = fs::read_to_string(&file).expect("readable").lines().count();
        assert!(lines <= 800, "{} has {lines} lines", file.display());
    }
}
