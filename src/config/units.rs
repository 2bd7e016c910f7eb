//! Sizes and durations as people write them.

use std::time::Duration;

/// Reads `300s`, `5m`, `250ms`, `1h`; a bare number is refused, because its unit would be a
/// guess.
///
/// # Errors
/// What is wrong and how it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mend = "write a number with its unit, e.g. 250ms, 30s, 5m or 1h";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("not a duration; {mend}"))?;
    let millis = match unit {
        "ms" => number,
        "s" => number.saturating_mul(1000),
        "m" => number.saturating_mul(60_000),
        "h" => number.saturating_mul(3_600_000),
        "" => return Err(format!("the unit is missing; {mend}")),
        _ => return Err(format!("unknown unit {unit:?}; {mend}")),
    };
    if millis > 30 * 24 * 3_600_000 {
        return Err("longer than 30 days; write off where that is meant".into());
    }
    Ok(Duration::from_millis(millis))
}

/// A duration that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrOff(pub Option<Duration>);

/// Reads a duration or `off`.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_off(text: &str) -> Result<OrOff, String> {
    match text {
        "off" => Ok(OrOff(None)),
        _ => match duration(text) {
            Ok(Duration::ZERO) => Err("0 would be due at once; write off to switch it off".into()),
            other => other.map(|duration| OrOff(Some(duration))).map_err(|e| e + ", or off"),
        },
    }
}

/// Reads `65536`, `256k`, `1m`, `64KiB`: bytes, in steps of 1024.
///
/// # Errors
/// What is wrong and how it is written.
pub fn size(text: &str) -> Result<u64, String> {
    let mend = "write bytes, or a number with k, m or g, e.g. 256k";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("not a size; {mend}"))?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unknown unit {unit:?}; {mend}")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("too large; {mend}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_as_written() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration_or_off("off"), Ok(OrOff(None)));
        for bad in ["30", "30x", "", "-1s", "1.5s", "s", "99999999999999999999s", "99999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration_or_off("0s").is_err());
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(
            (size("256k"), size("64KiB"), size("1m")),
            (Ok(262_144), Ok(65_536), Ok(1 << 20))
        );
        for bad in ["", "k", "1x", "-1", "99999999999g"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
