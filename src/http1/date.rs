//! The `Date` field (RFC 9110, section 6.6.1), written once a second.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

/// An IMF-fixdate (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type Date = [u8; 29];

thread_local! {
    /// The last one written, and its second since 1970.
    static LAST: Cell<Option<(u64, Date)>> = const { Cell::new(None) };
}

/// `time` as a date: from 1970 to 9999, of which the nearest where it is another.
pub fn date(time: SystemTime) -> Date {
    const YEAR_10000: u64 = 253_402_300_800;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs().min(YEAR_10000 - 1);
    if let Some((last, date)) = LAST.get()
        && last == second
    {
        return date;
    }
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let mut date = [b' '; 29];
    date.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
    LAST.set(Some((second, date)));
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_date_whatever_was_asked_before() {
        let at = |second| date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        for _ in 0..2 {
            assert_eq!(&at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
            assert_eq!(&at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        }
        let within = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_778_999);
        assert_eq!(&date(within), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(&at(u64::from(u32::MAX) << 8), b"Fri, 31 Dec 9999 23:59:59 GMT");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(&date(before), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
