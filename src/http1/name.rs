//! The field names the relay deals with, told apart once, when a head is parsed.

macro_rules! names {
    ($($name:ident = $len:literal $text:literal,)*) => {
        /// A field's name, as far as it matters here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // their names say which
        pub enum Name { $($name,)* Other }

        impl Name {
            /// Which one it is, in any case.
            pub fn of(bytes: &[u8]) -> Self {
                // Most of the same length differ in their first letter.
                let first = bytes.first().map_or(0, |byte| byte | 0x20);
                match bytes.len() {
                    $($len if first == $text[0] && is(bytes, $text) => {
                        Self::$name
                    })*
                    _ => Self::Other,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[(Name, usize, &[u8])] = &[$((Name::$name, $len, $text),)*];
    };
}

/// Whether `bytes` are `name`, which is in lower case. Of a known length it is done without a branch,
/// many bytes at a time.
#[inline]
fn is<const LEN: usize>(bytes: &[u8], name: &[u8; LEN]) -> bool {
    let Ok(bytes) = <&[u8; LEN]>::try_from(bytes) else { return false };
    let differ = |differ, (byte, other): (&u8, &u8)| differ | (byte.to_ascii_lowercase() ^ other);
    bytes.iter().zip(name).fold(0, differ) == 0
}

names! {
    Te = 2 b"te",
    Via = 3 b"via",
    Date = 4 b"date",
    Host = 4 b"host",
    Accept = 6 b"accept",
    Cookie = 6 b"cookie",
    Expect = 6 b"expect",
    Trailer = 7 b"trailer",
    Upgrade = 7 b"upgrade",
    XApiKey = 9 b"x-api-key",
    Connection = 10 b"connection",
    KeepAlive = 10 b"keep-alive",
    ContentType = 12 b"content-type",
    MaxForwards = 12 b"max-forwards",
    XRequestId = 12 b"x-request-id",
    Authorization = 13 b"authorization",
    CacheControl = 13 b"cache-control",
    ContentLength = 14 b"content-length",
    Http2Settings = 14 b"http2-settings",
    AcceptEncoding = 15 b"accept-encoding",
    XForwardedFor = 15 b"x-forwarded-for",
    ContentEncoding = 16 b"content-encoding",
    ProxyConnection = 16 b"proxy-connection",
    XForwardedHost = 16 b"x-forwarded-host",
    TransferEncoding = 17 b"transfer-encoding",
    XAccelBuffering = 17 b"x-accel-buffering",
    XForwardedProto = 17 b"x-forwarded-proto",
    ProxyAuthenticate = 18 b"proxy-authenticate",
    ProxyAuthorization = 19 b"proxy-authorization",
}

impl Name {
    /// It speaks of one connection, or of framing, which is written afresh.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
                | Self::ContentLength
                | Self::XRequestId
        )
    }

    /// Connection may not name it away: without it the message means something else.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Authorization
                | Self::CacheControl
                | Self::ContentEncoding
                | Self::ContentType
                | Self::Cookie
                | Self::Host
                | Self::XApiKey
                | Self::XForwardedFor
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_in_any_case_and_no_other_is() {
        for (name, len, text) in ALL {
            assert_eq!(text.len(), *len, "{name:?}");
            assert_eq!(Name::of(text), *name);
            assert_eq!(Name::of(&text.to_ascii_uppercase()), *name);
            let mut longer = text.to_vec();
            longer.push(b'x');
            assert_eq!(Name::of(&longer), Name::Other);
            assert_eq!(Name::of(&text[1..]), Name::Other);
        }
    }
}
