//! Parses durations and sizes that have a unit.

use std::time::Duration;

/// The longest duration that a configuration key accepts: a hundred years. So the
/// sum of the current time and a configured duration does not overflow.
const DURATION_MAX: Duration = Duration::from_hours(36_500 * 24);

/// The units of durations, each with its length in milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// The units of sizes, each with its number of bytes.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Parses a text that consists of an integer and a unit from `units`. Returns the
/// product of the integer and the factor of the unit, or a larger number than
/// `u64::MAX` if the product does not fit. Returns `None` if the text has another
/// form.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u128> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    if number.is_empty() {
        return None;
    }
    // A number of digits only fails to parse if it overflows.
    Some(number.parse().unwrap_or(u128::MAX).saturating_mul(u128::from(factor)))
}

/// Parses a duration such as `15s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let millis = amount(text, &TIME_UNITS).ok_or_else(|| {
        format!(
            "{text:?} is not a duration; write an integer and ms, s, m, h or d, for example \
             \"15s\""
        )
    })?;
    u64::try_from(millis)
        .map(Duration::from_millis)
        .ok()
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| format!("{text:?} is too large; the largest duration is \"36500d\""))
}

/// Parses a size such as `64KiB`, and returns it in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let bytes = amount(text, &SIZE_UNITS).ok_or_else(|| {
        format!(
            "{text:?} is not a size; write an integer and B, kB, KiB, MB, MiB, GB, GiB, TB or \
             TiB, for example \"64KiB\""
        )
    })?;
    u64::try_from(bytes)
        .map_err(|_| format!("{text:?} is too large; the largest size is \"16777215TiB\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_an_integer_and_a_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("200ms", 200),
            ("15s", 15_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "15", "-1s", "+1s", "1.5s", "1 s", "1S", "1h30m"] {
            assert!(duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
        for text in ["36501d", "999999999999999999d", "99999999999999999999s"] {
            let error = format!("{text:?} is too large; the largest duration is \"36500d\"");
            assert_eq!(duration(text), Err(error));
        }
    }

    #[test]
    fn a_size_is_an_integer_with_an_optional_unit() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("7B", 7),
            ("500kB", 500_000),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("2GB", 2_000_000_000),
            ("3TiB", 3 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "KiB", "-1", "1KB", "1mib", "1.5MiB", "1 MiB"] {
            assert!(bytes(text).unwrap_err().contains("is not a size"), "{text}");
        }
        for text in ["16777216TiB", "99999999TiB", "99999999999999999999", &"9".repeat(50)] {
            let error = format!("{text:?} is too large; the largest size is \"16777215TiB\"");
            assert_eq!(bytes(text), Err(error));
        }
        assert_eq!(bytes("16777215TiB"), Ok(16_777_215 << 40));
    }
}
