//! Durations and sizes as people write them.

use std::time::Duration;

/// Longest duration that a key takes: a hundred years. What is added to a
/// clock can then never overflow it.
const DURATION_MAX: Duration = Duration::from_hours(36_500 * 24);

/// Units of time, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of size, in bytes.
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

/// A whole number and the unit behind it, with the units multiplied out.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads a duration such as `15s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let millis = amount(text, &TIME_UNITS).ok_or_else(|| {
        format!("{text:?} is no duration; write a whole number and ms, s, m, h or d, as in \"15s\"")
    })?;
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        return Err(format!("{text:?} is longer than \"36500d\""));
    }
    Ok(duration)
}

/// Reads a size such as `64KiB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    amount(text, &SIZE_UNITS).ok_or_else(|| {
        format!(
            "{text:?} is no size; write a whole number and B, kB, KiB, MB, MiB, GB, GiB, TB or \
             TiB, as in \"64KiB\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
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
        for text in
            ["", "s", "15", "-1s", "+1s", "1.5s", "1 s", "1S", "1h30m", "99999999999999999999s"]
        {
            assert!(duration(text).unwrap_err().contains("is no duration"), "{text}");
        }
        assert_eq!(duration("36501d"), Err("\"36501d\" is longer than \"36500d\"".into()));
    }

    #[test]
    fn a_size_is_a_whole_number_of_bytes_or_of_a_unit() {
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
        for text in ["", "KiB", "-1", "1KB", "1mib", "1.5MiB", "1 MiB", "99999999TiB"] {
            assert!(bytes(text).unwrap_err().contains("is no size"), "{text}");
        }
    }
}
