//! Streams that repeat the whole text so far in every frame, read as what is new in each.

use super::Increments;
use crate::dialect::json::Malformed;
use crate::dialect::text::Strand;
use crate::limits::SO_FAR_BYTES_MAX;

/// What each strand has said: the text so far, as each frame of such a stream has it.
#[derive(Debug)]
pub(super) struct SoFar {
    increments: Increments,
    said: Vec<(Strand, Vec<u8>)>,
    /// Bytes that were kept, those of rewritten texts too.
    bytes: usize,
}

impl SoFar {
    pub(super) fn new(increments: Increments) -> Self {
        Self { increments, said: Vec::new(), bytes: 0 }
    }

    /// What is new in `text`, the content of a JSON string.
    ///
    /// A text that does not begin with what was said cannot be taken back: what follows where
    /// they part is new, unless it is only shorter (a last frame may repeat nothing).
    ///
    /// # Errors
    /// All the text so far is more than may be kept.
    pub(super) fn new_of<'a>(
        &mut self,
        strand: Strand,
        text: &'a [u8],
    ) -> Result<&'a [u8], Malformed> {
        if self.increments == Increments::New {
            return Ok(text);
        }
        let Some((_, said)) = self.said.iter_mut().find(|(of, _)| *of == strand) else {
            self.bytes += text.len();
            self.said.push((strand, text.to_vec()));
            return self.check(text);
        };
        let repeats = text.starts_with(said);
        if self.increments == Increments::Unknown {
            if text.len() <= said.len() || !repeats {
                // A whole text repeated as it was says nothing about the next one.
                if text == said.as_slice() && text.len() > SURE_BYTES {
                    return Ok(&[]);
                }
                self.increments = Increments::New;
                self.said = Vec::new();
                return Ok(text);
            }
            self.increments = Increments::SoFar;
        }
        if !repeats && said.starts_with(text) {
            return Ok(&[]);
        }
        let same = if repeats { said.len() } else { common(said, text) };
        let new = &text[same..];
        said.truncate(same);
        said.extend_from_slice(new);
        self.bytes += new.len();
        self.check(new)
    }

    /// `new`, if what is kept is not too much.
    fn check<'a>(&self, new: &'a [u8]) -> Result<&'a [u8], Malformed> {
        if self.bytes > SO_FAR_BYTES_MAX { Err(Malformed) } else { Ok(new) }
    }
}

/// A text of this length that comes twice in a row is a repetition, not a chance.
const SURE_BYTES: usize = 16;

/// Bytes that two texts have in common, without cutting an escape or a character.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // Before an escape that reaches beyond, and before the bytes of a character.
    if let Some(slash) = a[..same].iter().rposition(|&byte| byte == b'\\') {
        let begins = a[..slash].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 0;
        let len = if a.get(slash + 1) == Some(&b'u') { 6 } else { 2 };
        if begins && slash + len > same {
            same = slash;
        }
    }
    while same > 0 && b.get(same).is_some_and(|byte| byte & 0xC0 == 0x80) {
        same -= 1;
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::text::StrandKind;

    fn told(increments: Increments, texts: &[&'static str]) -> Vec<String> {
        let strand = Strand { kind: StrandKind::Answer, choice: 0, call: 0 };
        let mut so_far = SoFar::new(increments);
        let new = texts.iter().map(|text| so_far.new_of(strand, text.as_bytes()).expect("short"));
        new.map(|new| String::from_utf8_lossy(new).into_owned()).collect()
    }

    #[test]
    fn what_is_new_is_told_once() {
        let texts = ["a", "ab", "ab", "abcd", "", "abcd", "abcde"];
        assert_eq!(told(Increments::SoFar, &texts), ["a", "b", "", "cd", "", "", "e"]);
        assert_eq!(told(Increments::Unknown, &["我", "我是", "我是谁"]), ["我", "是", "谁"]);
        assert_eq!(told(Increments::Unknown, &["我", "是", "是谁"]), ["我", "是", "是谁"]);
        assert_eq!(told(Increments::New, &["ha", "haha"]), ["ha", "haha"]);
        assert_eq!(told(Increments::Unknown, &["a", "a"]), ["a", "a"]);
    }

    #[test]
    fn a_rewritten_text_goes_on_where_they_part() {
        assert_eq!(told(Increments::SoFar, &["ab", "axyz"]), ["ab", "xyz"]);
        assert_eq!(told(Increments::SoFar, &["你好", "你坏"]), ["你好", "坏"]);
        assert_eq!(told(Increments::SoFar, &[r"a\n", r"a\tb"]), [r"a\n", r"\tb"]);
        assert_eq!(told(Increments::SoFar, &[r"\u4f60", r"\u4f61"]), [r"\u4f60", r"\u4f61"]);
        assert_eq!(told(Increments::SoFar, &[r"\\x", r"\\y"]), [r"\\x", "y"]);
    }
}
