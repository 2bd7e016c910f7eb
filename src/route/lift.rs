//! Instructions out of the messages: OpenAI's clients give them as messages of the role `system` or
//! `developer`, Anthropic wants them in a member of their own and refuses such messages.

use crate::dialect::json::Value;
use crate::json::{EditError, Kind, Object, Path};

/// Moves the content of such messages to the member `system`, as the text blocks that both know. A
/// request without any is not touched; other messages keep their bytes.
///
/// # Errors
/// A member is there twice, or `system` is there already.
pub(super) fn system(
    request: &mut Object<'_>,
    messages: &Path,
    system: &Path,
) -> Result<(), EditError> {
    let Some(text) = request.given(messages)?.map(std::borrow::Cow::into_owned) else {
        return Ok(());
    };
    let Ok(list) = Value::of(text.as_bytes()) else { return Ok(()) };
    let (mut kept, mut lifted) = (Vec::new(), Vec::new());
    for message in list.items() {
        // The text has been checked; what cannot be read stays for the provider to judge.
        let Ok(message) = message else { return Ok(()) };
        let Ok([role, content]) = message.members([b"role", b"content"]) else { return Ok(()) };
        match (role.string(), std::str::from_utf8(content.raw())) {
            (Some(b"system" | b"developer"), Ok(content)) => lift(content, &mut lifted),
            _ => kept.push(message.raw()),
        }
    }
    if lifted.is_empty() {
        return Ok(());
    }
    if request.given(system)?.is_some() {
        return Err(EditError::Taken(system.to_string()));
    }
    let kept = kept.join(b",".as_slice());
    let kept = String::from_utf8_lossy(&kept);
    request.set(messages, format!("[{kept}]"))?;
    request.set(system, format!("[{}]", lifted.join(",")))
}

/// Puts a message's content among the blocks: a text as one, a list of parts as it is.
fn lift(content: &str, into: &mut Vec<String>) {
    match Kind::of(content) {
        Kind::String => into.push(format!("{{\"type\":\"text\",\"text\":{content}}}")),
        Kind::Array => {
            let parts = content[1..content.len() - 1].trim();
            into.extend((!parts.is_empty()).then(|| parts.to_owned()));
        }
        // Nothing is said.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifted(text: &str) -> Result<String, EditError> {
        let mut object = Object::read(text.as_bytes()).expect("an object");
        let [messages, place] = ["messages", "system"].map(|name| Path::of([name]));
        system(&mut object, &messages, &place)?;
        Ok(object.to_string())
    }

    #[test]
    fn instructions_get_a_member_of_their_own() {
        let text = r#"{"messages":[{"role":"system","content":"Be \u00e9\n"}, { "role":"user" , "content":"x" },{"role":"developer","content":[ {"type":"text","text":"y"} ]},{"role":"system","content":[]}],"n":1e999}"#;
        let wanted = r#"{"messages":[{ "role":"user" , "content":"x" }],"n":1e999,"system":[{"type":"text","text":"Be \u00e9\n"},{"type":"text","text":"y"}]}"#;
        assert_eq!(lifted(text), Ok(wanted.to_owned()));
    }

    #[test]
    fn what_has_none_is_not_touched() {
        for text in [
            r#"{ "messages" : [ {"role":"user","content":"x"} ], "system":"s" }"#,
            r#"{"messages":"system"}"#,
            r#"{"messages":[1,null,[]]}"#,
            r#"{"messages":[]}"#,
            r#"{"messages":null}"#,
            "{}",
        ] {
            assert_eq!(lifted(text), Ok(text.to_owned()));
        }
        let both = r#"{"system":"s","messages":[{"role":"system","content":"x"}]}"#;
        assert_eq!(lifted(both), Err(EditError::Taken("system".to_owned())));
    }
}
