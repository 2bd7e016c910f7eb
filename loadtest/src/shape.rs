//! What a stream is to look like. The client asks for it in the request's query, the origin obeys.

use std::fmt;

/// How the origin answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// With a stream.
    #[default]
    None,
    /// With 503 and a short JSON body.
    Unavailable,
    /// With an orderly close, before any byte.
    Close,
}

/// A stream's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Frames before the terminal one; 0 for no end until the origin is told.
    pub frames: u32,
    /// Frames a second; 0 for as fast as the socket takes them.
    pub rate: f64,
    /// Bytes of JSON in a frame.
    pub size: usize,
    /// From the request to the first frame's slot, in milliseconds.
    pub first_ms: u64,
    /// The first frame's time on the monotonic clock instead; 0 for none.
    pub at: u64,
    /// Frames sent and not yet read by the client, at most; 0 for as many as the socket takes.
    pub outstanding: u32,
    /// Stay silent after the last frame instead of ending.
    pub hold: bool,
    /// How many of a hundred requests are failed.
    pub fail_share: u32,
    /// How these are failed.
    pub failure: Failure,
    /// The origin itself numbers the frames and lets clients come back, where nothing in between
    /// does it.
    pub numbered: bool,
    /// The stream's number, echoed in every frame.
    pub id: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            frames: 0,
            rate: 20.0,
            size: 200,
            first_ms: 0,
            at: 0,
            outstanding: 0,
            hold: false,
            fail_share: 0,
            failure: Failure::None,
            numbered: false,
            id: 0,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "frames={}&rate={}&size={}&id={}", self.frames, self.rate, self.size, self.id)?;
        if self.first_ms > 0 {
            write!(out, "&first={}", self.first_ms)?;
        }
        if self.at > 0 {
            write!(out, "&at={}", self.at)?;
        }
        if self.outstanding > 0 {
            write!(out, "&outstanding={}", self.outstanding)?;
        }
        if self.hold {
            write!(out, "&hold=1")?;
        }
        if self.numbered {
            write!(out, "&numbered=1")?;
        }
        match self.failure {
            Failure::None => Ok(()),
            Failure::Unavailable => write!(out, "&fail=503&share={}", self.fail_share),
            Failure::Close => write!(out, "&fail=close&share={}", self.fail_share),
        }
    }
}

impl Shape {
    /// Reads the shape out of a request: the first `frames=…` in its target or its body, so that
    /// a gateway that drops queries can carry it in the model's name.
    pub fn find(request: &[u8]) -> Option<Self> {
        let start = request.windows(7).position(|at| at == b"frames=")?;
        let text = &request[start..];
        let end = text.iter().position(|b| matches!(b, b' ' | b'"' | b'\r')).unwrap_or(text.len());
        let mut shape = Self::default();
        for pair in std::str::from_utf8(&text[..end]).ok()?.split('&') {
            let (key, value) = pair.split_once('=')?;
            shape.set(key, value)?;
        }
        Some(shape)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "frames" => self.frames = value.parse().ok()?,
            "rate" => self.rate = value.parse().ok()?,
            "size" => self.size = value.parse().ok()?,
            "first" => self.first_ms = value.parse().ok()?,
            "at" => self.at = value.parse().ok()?,
            "outstanding" => self.outstanding = value.parse().ok()?,
            "hold" => self.hold = value == "1",
            "numbered" => self.numbered = value == "1",
            "share" => self.fail_share = value.parse().ok()?,
            "id" => self.id = value.parse().ok()?,
            "fail" => {
                self.failure = match value {
                    "503" => Failure::Unavailable,
                    "close" => Failure::Close,
                    _ => Failure::None,
                }
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_survives_the_query_and_the_body() {
        let shape = Shape {
            frames: 10,
            rate: 2.5,
            size: 300,
            first_ms: 7,
            at: 12,
            outstanding: 1,
            hold: true,
            fail_share: 30,
            failure: Failure::Close,
            numbered: true,
            id: 99,
        };
        let target = format!("POST /v1/chat/completions?{shape} HTTP/1.1\r\n\r\n");
        assert_eq!(Shape::find(target.as_bytes()), Some(shape.clone()));
        let body = format!("POST / HTTP/1.1\r\n\r\n{{\"model\":\"{shape}\"}}");
        assert_eq!(Shape::find(body.as_bytes()), Some(shape));
        assert_eq!(Shape::find(b"GET / HTTP/1.1\r\n\r\n"), None);
    }
}
