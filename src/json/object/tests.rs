use proptest::prelude::*;
use serde_json::{Map, Value as Tree, json};

use super::*;

fn path(text: &str) -> Path {
    Path::read(text).expect("a path")
}

fn object(text: &str) -> Object<'_> {
    Object::read(text.as_bytes()).expect("an object")
}

fn edited(text: &str, edit: impl FnOnce(&mut Object<'_>) -> Result<(), EditError>) -> String {
    let mut object = object(text);
    edit(&mut object).expect("edits");
    object.to_string()
}

#[test]
fn paths_are_read_and_shown() {
    for text in ["a", "a.b.c", r"a\.b.c", "优化", r"a\b"] {
        assert_eq!(path(text).to_string(), text);
    }
    assert_eq!(path(r"a\.b.c").names().len(), 2);
    for text in ["", ".", "a.", ".a", "a..b"] {
        assert_eq!(Path::read(text), None, "{text:?}");
    }
}

#[test]
fn what_is_not_touched_stays_to_the_byte() {
    let text = " {\n  \"n\" : 1e400,\t\"\\u0061\":\"\\u00e9\\/\" ,\n \"x\": { \"y\" : [ 1 , 2 ] , \"y\":3 }\n} \n";
    assert_eq!(object(text).to_string(), text);
    let set = edited(text, |o| o.set(&path("n"), "2"));
    assert_eq!(set, text.replace("1e400", "2"));
    let named = edited(text, |o| o.set(&path("a"), "true"));
    assert_eq!(named, text.replace("\"\\u00e9\\/\"", "true"), "a name with an escape is found");
    let added = edited(text, |o| o.set(&path("z"), "[]"));
    let end = "{ \"y\" : [ 1 , 2 ] , \"y\":3 },\n \"z\": []\n} \n";
    assert!(added.ends_with(end) && added.starts_with(&text[..40]), "{added}");
    let removed = edited(text, |o| o.remove(&path("a")).map(|_| ()));
    assert_eq!(removed, text.replace("\t\"\\u0061\":\"\\u00e9\\/\" ,", ""));
    let renamed = edited(text, |o| o.rename(&path("n"), "m"));
    assert_eq!(renamed, text.replace("\"n\"", "\"m\""));
}

#[test]
fn nested_members_are_made_where_they_are_wanted() {
    let usage = path("stream_options.include_usage");
    for (text, wanted) in [
        ("{}", r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"a":1}"#, r#"{"a":1,"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{ }}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (
            r#"{"stream_options":{"x" : 1 , "include_usage" : false }}"#,
            r#"{"stream_options":{"x" : 1 , "include_usage" : true }}"#,
        ),
    ] {
        assert_eq!(edited(text, |o| o.set(&usage, "true")), wanted);
    }
    let twice = edited("{}", |o| {
        o.set(&path("a"), r#"{"b":{"c":1}}"#)?;
        o.set(&path("a.b.d"), "2")?;
        o.remove(&path("a.b.c")).map(|_| ())
    });
    assert_eq!(twice, r#"{"a":{"b":{"d":2}}}"#);
}

#[test]
fn ambiguous_members_are_refused_by_name_and_others_are_left_alone() {
    let text = r#"{"a":1,"b":{"c":1,"\u0063":2},"a":2,"d":3}"#;
    let mut repeated = object(text);
    assert_eq!(repeated.set(&path("a"), "3"), Err(EditError::Repeated("a".into())));
    assert_eq!(repeated.remove(&path("b.c")), Err(EditError::Repeated("b.c".into())));
    assert_eq!(repeated.value(&path("a")), Err(EditError::Repeated("a".into())));
    assert_eq!(repeated.rename(&path("d"), "a"), Err(EditError::Repeated("a".into())));
    assert_eq!(repeated.set(&path("d.e"), "3"), Err(EditError::NotAnObject("d".into())));
    assert_eq!(repeated.to_string(), text);
    assert_eq!(edited(text, |o| o.set(&path("d"), "4")), text.replace(":3}", ":4}"));
    let mut taken = object(r#"{"x":1,"y":2}"#);
    assert_eq!(taken.rename(&path("x"), "y"), Err(EditError::Taken("y".into())));
    assert_eq!(taken.rename(&path("x"), "x"), Ok(()));
}

#[test]
fn what_is_no_object_is_refused() {
    for (text, error) in [
        ("[]", JsonError::NotAnObject),
        ("7", JsonError::NotAnObject),
        ("", JsonError::Syntax(0)),
        ("{\"a\":1", JsonError::Syntax(6)),
    ] {
        assert_eq!(Object::read(text.as_bytes()).err(), Some(error), "{text}");
    }
    let many = (0..=JSON_MEMBERS_MAX).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
    let many = format!("{{{many}}}");
    assert_eq!(Object::read(many.as_bytes()).err(), Some(JsonError::TooManyMembers));
}

/// An edit, for both sides.
#[derive(Clone, Debug)]
enum Edit {
    Set(Vec<String>, Tree),
    Default(Vec<String>, Tree),
    Remove(Vec<String>),
    Rename(Vec<String>, String),
}

/// The same edit on a parsed tree; false where it is refused.
fn oracle(tree: &mut Map<String, Tree>, edit: &Edit) -> bool {
    fn holder<'t>(
        mut tree: &'t mut Map<String, Tree>,
        names: &[String],
        make: bool,
    ) -> Result<Option<&'t mut Map<String, Tree>>, ()> {
        for name in &names[..names.len() - 1] {
            if make && tree.get(name).is_none_or(Tree::is_null) {
                tree.insert(name.clone(), Tree::Object(Map::new()));
            }
            match tree.get_mut(name) {
                Some(Tree::Object(next)) => tree = next,
                Some(_) if make => return Err(()),
                _ => return Ok(None),
            }
        }
        Ok(Some(tree))
    }
    let done = match edit {
        Edit::Set(names, value) => holder(tree, names, true).map(|tree| {
            tree.expect("made").insert(names.last().expect("a name").clone(), value.clone());
        }),
        Edit::Default(names, value) => {
            let given = holder(tree, names, false).expect("nothing is made");
            let last = names.last().expect("a name");
            if given.is_some_and(|tree| tree.get(last).is_some_and(|value| !value.is_null())) {
                return true;
            }
            return oracle(tree, &Edit::Set(names.clone(), value.clone()));
        }
        Edit::Remove(names) => holder(tree, names, false).map(|tree| {
            tree.map(|tree| tree.remove(names.last().expect("a name")));
        }),
        Edit::Rename(names, name) => holder(tree, names, false).and_then(|tree| {
            let (Some(tree), Some(last)) = (tree, names.last()) else { return Ok(()) };
            match tree.remove(last) {
                Some(value) if name != last && tree.contains_key(name) => {
                    tree.insert(last.clone(), value);
                    Err(())
                }
                Some(value) => {
                    tree.insert(name.clone(), value);
                    Ok(())
                }
                None => Ok(()),
            }
        }),
    };
    done.is_ok()
}

fn apply(object: &mut Object<'_>, edit: &Edit) -> bool {
    let path = |names: &[String]| Path(names.iter().map(|name| name.as_str().into()).collect());
    match edit {
        Edit::Set(names, value) => object.set(&path(names), value.to_string()).is_ok(),
        Edit::Default(names, value) => object.set_default(&path(names), value.to_string()).is_ok(),
        Edit::Remove(names) => object.remove(&path(names)).is_ok(),
        Edit::Rename(names, name) => object.rename(&path(names), name).is_ok(),
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c.d", "é", "\"\\"]).prop_map(str::to_owned)
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        "[ -~é\n]{0,6}".prop_map(Tree::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Tree::from),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Tree::Object(members.into_iter().collect())),
        ]
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let names = || prop::collection::vec(name(), 1..4);
    prop_oneof![
        (names(), tree()).prop_map(|(names, value)| Edit::Set(names, value)),
        (names(), tree()).prop_map(|(names, value)| Edit::Default(names, value)),
        names().prop_map(Edit::Remove),
        (names(), name()).prop_map(|(names, name)| Edit::Rename(names, name)),
    ]
}

proptest! {
    #[test]
    fn editing_the_text_is_editing_the_tree(
        members in prop::collection::btree_map(name(), tree(), 0..4),
        edits in prop::collection::vec(edit(), 0..6),
        pretty: bool,
    ) {
        let mut tree: Map<String, Tree> = members.into_iter().collect();
        let whole = Tree::Object(tree.clone());
        let text = if pretty { format!("{whole:#}") } else { whole.to_string() };
        let mut object = Object::read(text.as_bytes()).expect("an object");
        prop_assert_eq!(object.to_string(), text.as_str());
        for edit in &edits {
            let before = tree.clone();
            let done = oracle(&mut tree, edit);
            prop_assert_eq!(apply(&mut object, edit), done, "{:?} of {}", edit, object);
            if !done {
                // The exchange is refused then; what was made on the way does not matter.
                drop(before);
                return Ok(());
            }
            let parsed: Tree = serde_json::from_str(&object.to_string()).expect("JSON");
            prop_assert_eq!(parsed, Tree::Object(tree.clone()), "{:?}", edit);
        }
    }

    #[test]
    fn members_beside_the_edited_one_keep_their_bytes(
        values in prop::collection::vec(r#"(-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?|"(\\u[0-9a-f]{4}|\\[nrt/"\\]|[a-z é]){0,8}")"#, 1..6),
        spaces in prop::collection::vec("[ \t\n\r]{0,3}", 4..5),
        edited in 0_usize..6,
    ) {
        let member = |(index, value): (usize, &String)| {
            format!("{}\"k{index}\"{}:{}{value}{}", spaces[0], spaces[1], spaces[2], spaces[3])
        };
        let members: Vec<String> = values.iter().enumerate().map(member).collect();
        let text = format!("{{{}}}", members.join(","));
        let mut object = Object::read(text.as_bytes()).expect("an object");
        let path = Path::read(&format!("k{edited}")).expect("a path");
        object.set(&path, "\"new\"").expect("sets");
        let set = object.to_string();
        if edited < values.len() {
            let mut wanted = members.clone();
            wanted[edited] = member((edited, &"\"new\"".to_owned()));
            prop_assert_eq!(&set, &format!("{{{}}}", wanted.join(",")));
        }
        for (index, value) in values.iter().enumerate().filter(|(index, _)| *index != edited) {
            let kept = format!("\"k{index}\"{}:{}{value}", spaces[1], spaces[2]);
            prop_assert!(set.contains(&kept), "{} in {}", kept, set);
        }
        object.remove(&path).expect("removes");
        let mut left = members;
        if edited < left.len() {
            left.remove(edited);
        }
        for (index, value) in values.iter().enumerate().filter(|(index, _)| *index != edited) {
            let kept = format!("\"k{index}\"{}:{}{value}", spaces[1], spaces[2]);
            prop_assert!(object.to_string().contains(&kept));
        }
        let parsed: Result<Map<String, Tree>, _> = serde_json::from_str(&object.to_string());
        // Numbers beyond a double are kept here, and no matter to anyone but their reader.
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.len(), left.len());
        }
    }
}
