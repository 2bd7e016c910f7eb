//! The editor of JSON text, on any bytes: what it takes is what serde_json takes, untouched it
//! writes the same bytes, and an edit changes those of one member and no other.

use millstream::json::{Object, Path};
use millstream::limits::{JSON_DEPTH_MAX, JSON_MEMBERS_MAX};
use serde_json::Value;

use super::Choices;

const PATHS: [&str; 6] = ["a", "b", "a.b", "stream", "stream_options.include_usage", r"a\.b"];
const VALUES: [&str; 4] = ["true", "[1,{\"a\":null}]", "\"模\\n\"", "{\"b\":1}"];

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let edit = choices.byte() % 4;
    let path = PATHS[usize::from(choices.byte()) % PATHS.len()];
    let value = VALUES[usize::from(choices.byte()) % VALUES.len()];
    let text = choices.all();
    let read = Object::read(text);
    // Limits are ours alone, and a text near one of them proves nothing.
    let limited = count(text, b"[{") > JSON_DEPTH_MAX / 2 || count(text, b",") >= JSON_MEMBERS_MAX;
    if !limited {
        assert_eq!(read.is_ok(), is_object(text), "{read:?}");
    }
    let Ok(mut object) = read else { return };
    let text = std::str::from_utf8(text).expect("an object is text");
    assert_eq!(object.to_string(), text, "untouched");
    let path = Path::read(path).expect("a path");
    let before = object.value(&path).ok().flatten().map(std::borrow::Cow::into_owned);
    let done = match edit {
        0 => object.set(&path, value).map(|()| true),
        1 => object.set_default(&path, value).map(|_| true),
        2 => object.remove(&path),
        _ => object.rename(&path, "renamed").map(|_| true),
    };
    let made = object.to_string();
    let Ok(done) = done else { return };
    let after = Object::read(made.as_bytes()).expect("an object is made of an object");
    assert_eq!(after.to_string(), made);
    let now = after.value(&path).expect("it is there once").map(std::borrow::Cow::into_owned);
    let given = before.as_deref().filter(|before| *before != "null");
    let stays = made.len() - changed(text, &made);
    let old = before.as_ref().map_or(0, String::len);
    match edit {
        0 => {
            assert_eq!(now.as_deref(), Some(value));
            assert!(old == 0 || stays + value.len() >= made.len(), "{text:?} became {made:?}");
        }
        1 => {
            assert_eq!(now.as_deref(), given.or(Some(value)));
            assert!(given.is_none() || made == text);
        }
        2 => {
            assert_eq!((now, done), (None, before.is_some()));
            assert_eq!(changed(text, &made), 0, "{text:?} became {made:?}");
        }
        _ => {
            let beside = path.beside("renamed");
            let renamed = after.value(&beside).expect("it is there once");
            assert!(before.is_none() || renamed.map(std::borrow::Cow::into_owned) == before);
            assert!(before.is_some() || made == text);
        }
    }
    others_stay(text, &made, &path);
}

/// Bytes of `made` that do not stand at either end of `text` as well.
fn changed(text: &str, made: &str) -> usize {
    let pairs = text.bytes().zip(made.bytes());
    let front = pairs.take_while(|(one, other)| one == other).count();
    let most = text.len().min(made.len()) - front;
    let pairs = text.bytes().rev().zip(made.bytes().rev()).take(most);
    made.len() - front - pairs.take_while(|(one, other)| one == other).count()
}

/// Members that the edit does not name mean what they meant.
fn others_stay(text: &str, made: &str, path: &Path) {
    let (Ok(Value::Object(before)), Ok(Value::Object(after))) =
        (serde_json::from_str(text), serde_json::from_str(made))
    else {
        return;
    };
    let own = |name: &str| path.names().first().is_some_and(|own| **own == *name);
    for (name, value) in before.iter().filter(|(name, _)| !own(name) && *name != "renamed") {
        assert_eq!(after.get(name), Some(value), "{name}");
    }
}

/// Whether serde_json takes the text for an object. It does not look into escapes that mean half a
/// character, and nor does the editor, which leaves them as they are.
fn is_object(text: &[u8]) -> bool {
    let begins = text.iter().find(|byte| !b" \t\r\n".contains(byte)) == Some(&b'{');
    begins
        && std::str::from_utf8(text).is_ok()
        && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

fn count(text: &[u8], bytes: &[u8]) -> usize {
    text.iter().filter(|byte| bytes.contains(byte)).count()
}
