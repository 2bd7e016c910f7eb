//! Streams as providers write them, with what must be made of them.

use std::fs;
use std::path::Path;

use millstream::dialect::Dialect;
use millstream::dialect::read::Increments;
use serde_json::Value;

pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) dialect: Dialect,
    pub(crate) increments: Increments,
    pub(crate) bytes: Vec<u8>,
    pub(crate) truth: Told,
}

/// What a stream says, all of it together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) refusal: String,
    /// Id (none where the provider gives none), name, arguments.
    pub(crate) calls: Vec<(Option<String>, String, String)>,
    pub(crate) finish: Option<String>,
    /// Input, output, total.
    pub(crate) usage: Option<[u64; 3]>,
    pub(crate) end: End,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// None was told.
    #[default]
    Unfinished,
    Done,
    Error(String),
}

pub(crate) fn all() -> Vec<Fixture> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialects");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|ext| ext == "sse") {
            found.push(read(&path));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() >= 25);
    found
}

fn read(path: &Path) -> Fixture {
    let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
    let truth = fs::read(path.with_extension("json")).expect("what it says");
    let truth: Value = serde_json::from_slice(&truth).expect("JSON");
    let text = |key: &str| truth[key].as_str().expect("a string").to_owned();
    let calls = truth["calls"].as_array().expect("calls").iter().map(|call| {
        let part = |n: usize| call[n].as_str().map(str::to_owned);
        (part(0), part(1).expect("a name"), part(2).expect("arguments"))
    });
    let usage = truth["usage"].as_array().map(|usage| {
        let number = |n: usize| usage[n].as_u64().expect("a number");
        [number(0), number(1), number(2)]
    });
    let end = match truth["end"].as_str() {
        Some("done") => End::Done,
        Some("error") => End::Error(text("message")),
        _ => End::Unfinished,
    };
    let increments = match truth["increments"].as_str() {
        Some("new") => Increments::New,
        Some("so far") => Increments::SoFar,
        _ => Increments::Unknown,
    };
    Fixture {
        dialect: dialect(&name),
        increments,
        bytes: fs::read(path).expect("readable"),
        truth: Told {
            text: text("text"),
            reasoning: text("reasoning"),
            refusal: text("refusal"),
            calls: calls.collect(),
            finish: truth["finish"].as_str().map(str::to_owned),
            usage,
            end,
        },
        name,
    }
}

fn dialect(name: &str) -> Dialect {
    if name.starts_with("vllm") || name.starts_with("openai-completions") {
        return Dialect::OpenAiChat;
    }
    let of = |dialect: &&Dialect| name.starts_with(dialect.as_str());
    *Dialect::ALL.iter().find(of).expect("named by its dialect")
}
