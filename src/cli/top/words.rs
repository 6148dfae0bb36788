//! Figures as people read them. Pure.

use std::time::Duration;

use bytesize::ByteSize;

/// `1,234,567`
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,234 records`
#[must_use]
pub fn records(number: u64) -> String {
    format!("{} record{}", count(number), if number == 1 { "" } else { "s" })
}

/// `1.2 MiB`
#[must_use]
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A number that need not be whole: `0.4`, `12`, `1,234`.
#[must_use]
pub fn number(value: f64) -> String {
    if value > 0.0 && value < 9.95 { format!("{value:.1}") } else { count(whole(value)) }
}

/// A share of a whole as `45 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

/// `350 ms`, `2.5 s`, `12 s`, `3 min 20 s`, `2 h`, `5 d 2 h`
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let and = |rest: u64, unit: &str| if rest == 0 { String::new() } else { format!(" {rest} {unit}") };
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{} ms", duration.as_millis()),
        (0, 0, 0, 1..10) if duration.subsec_millis() >= 100 => {
            format!("{seconds}.{} s", duration.subsec_millis() / 100)
        }
        (0, 0, 0, _) => format!("{seconds} s"),
        (0, 0, ..) => format!("{minutes} min{}", and(seconds % 60, "s")),
        (0, ..) => format!("{hours} h{}", and(minutes % 60, "min")),
        _ => format!("{} d{}", count(days), and(hours % 24, "h")),
    }
}

/// Seconds that need not be whole, as a duration; those that can't be are the longest there is.
#[must_use]
pub fn seconds(value: f64) -> String {
    duration(Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX))
}

/// The nearest whole number, zero for what is less.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(write: fn(T) -> String, cases: impl IntoIterator<Item = (T, &'static str)>) {
        for (value, expected) in cases {
            assert_eq!(write(value), expected);
        }
    }

    #[test]
    fn numbers_are_grouped_and_small_ones_keep_a_digit() {
        check(count, [(0, "0"), (999, "999"), (1000, "1,000"), (u64::MAX, "18,446,744,073,709,551,615")]);
        check(records, [(0, "0 records"), (1, "1 record"), (1000, "1,000 records")]);
        check(number, [(0.0, "0"), (0.44, "0.4"), (9.96, "10"), (1234.5, "1,235"), (-1.0, "0")]);
        check(number, [(f64::NAN, "0"), (f64::INFINITY, "18,446,744,073,709,551,615")]);
        check(percent, [(0.0, "0 %"), (0.004, "0.4 %"), (1.0, "100 %")]);
        check(size, [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (u64::MAX, "16.0 EiB")]);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        check(
            seconds,
            [
                (0.35, "350 ms"),
                (2.55, "2.5 s"),
                (5.0, "5 s"),
                (12.5, "12 s"),
                (300.0, "5 min"),
                (200.0, "3 min 20 s"),
                (7385.0, "2 h 3 min"),
            ],
        );
        check(seconds, [(439_200.0, "5 d 2 h"), (f64::NAN, "0 ms"), (-1.0, "0 ms")]);
        check(seconds, [(f64::INFINITY, "213,503,982,334,601 d 7 h")]);
    }
}
