//! Values of flags from several sources, one above the other: the file's top, an upstream group, a
//! route, the command line. What is said in a file goes through the same reading and the same
//! checks as a flag, so that each setting has one meaning, one default and one mend.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory as _, Parser as _};

use super::cli::{Cli, Command, ServeArgs, one_line};

/// A key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) file: Arc<str>,
    /// The line, from 1.
    pub(super) line: usize,
    /// The key.
    pub(super) key: String,
    /// What a value turned into, and how it is written: the first is not to be shown.
    pub(super) masks: Vec<(String, String)>,
}

/// One flag's values.
#[derive(Clone, Debug)]
struct Given {
    /// None for a switch that is off.
    values: Option<Vec<String>>,
    /// None for the command line.
    place: Option<Place>,
}

/// Flags by their long names.
#[derive(Clone, Debug, Default)]
pub struct Layer(BTreeMap<String, Given>);

/// How a flag takes its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// None: it is on or off.
    Switch,
    /// One.
    One,
    /// Any number.
    Many,
}

/// The flags of `serve`, and how each takes its values.
pub(super) fn flags() -> BTreeMap<String, Takes> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve");
    let args = serve.into_iter().flat_map(clap::Command::get_arguments);
    let flag = |arg: &clap::Arg| {
        let takes = match arg.get_action() {
            ArgAction::SetTrue => Takes::Switch,
            ArgAction::Append => Takes::Many,
            _ => Takes::One,
        };
        Some((arg.get_long()?.to_owned(), takes))
    };
    args.filter_map(flag).filter(|(long, _)| long != "help" && long != "config").collect()
}

impl Layer {
    /// What was given on a command line.
    pub(super) fn given(matches: &ArgMatches) -> Self {
        let mut layer = Self::default();
        for (long, takes) in flags() {
            let id = long.replace('-', "_");
            if matches.value_source(&id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let raw = matches.get_raw(&id).into_iter().flatten();
            let values = match takes {
                Takes::Switch => Vec::new(),
                _ => raw.map(|value| value.to_string_lossy().into_owned()).collect(),
            };
            layer.0.insert(long, Given { values: Some(values), place: None });
        }
        layer
    }

    /// Gives `flag` the values from a file.
    pub(super) fn set(&mut self, flag: &str, values: Option<Vec<String>>, place: Place) {
        self.0.insert(flag.to_owned(), Given { values, place: Some(place) });
    }

    /// Whether a flag is given.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.0.contains_key(flag)
    }

    /// This layer with another above it.
    #[must_use]
    pub(super) fn under(&self, above: &Self) -> Self {
        let mut both = self.clone();
        both.0.extend(above.0.clone());
        both
    }

    /// The arguments, every default filled in.
    ///
    /// # Errors
    /// One line: where, why, and the mend.
    pub(super) fn args(&self) -> Result<ServeArgs, String> {
        let mut words = vec!["millstream".to_owned(), "serve".to_owned()];
        // Whether there is an upstream is asked elsewhere.
        words.push("--config=-".to_owned());
        for (flag, given) in &self.0 {
            match &given.values {
                Some(values) if values.is_empty() => words.push(format!("--{flag}")),
                values => {
                    words.extend(values.iter().flatten().map(|value| format!("--{flag}={value}")))
                }
            }
        }
        match Cli::try_parse_from(words) {
            Ok(Cli { command: Command::Serve(args) }) => Ok(*args),
            Ok(_) => Err("not serve".to_owned()),
            Err(error) => Err(self.places().relocate(one_line(&error))),
        }
    }

    /// Where the file says what.
    pub(super) fn places(&self) -> Places {
        let from_file =
            |(flag, given): (&String, &Given)| Some((flag.clone(), given.place.clone()?));
        Places(self.0.iter().filter_map(from_file).collect())
    }
}

/// Where a file says what flags would.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// A message that begins with a flag, told with the file's line and key where the flag was set
    /// there.
    pub fn relocate(&self, message: String) -> String {
        let flagged = message.strip_prefix("--").and_then(|rest| rest.split_once(": "));
        let Some((flag, why)) = flagged else { return message };
        // What is missing has no line: then that counts which it is missing beside.
        let beside = || {
            let named = |(other, _): &(&String, &Place)| why.contains(&format!("--{other}"));
            self.0.iter().find(named).map(|(_, place)| place)
        };
        let Some(place) = self.0.get(flag).or_else(beside) else { return message };
        let mut why = why.to_owned();
        for (shown, written) in &place.masks {
            why = why.replace(shown, written);
        }
        let key = |flag: &str| {
            self.0.get(flag).map_or_else(|| flag.replace('-', "_"), |place| place.key.clone())
        };
        for other in flags().keys().rev() {
            why = why.replace(&format!("--{other}"), &key(other));
        }
        let key = key(flag);
        format!("{}:{}: {key}: {why}", place.file, place.line)
    }
}
