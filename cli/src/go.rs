//! Texts as Go's standard library and gRPC for Go write them. Scripts match on SPIRE's output, and
//! these are the parts of it that are Go's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use tonic::{Code, Status};

/// A time in UTC: `2026-11-22 17:03:28 +0000 UTC`.
pub(crate) fn time(at: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    OffsetDateTime::from(at)
        .format(format)
        .unwrap_or_else(|_| format!("{at:?}"))
}

/// A time in seconds of the epoch.
pub(crate) fn unix_time(seconds: i64) -> String {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    let at = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(offset),
        false => UNIX_EPOCH.checked_add(offset),
    };
    // A time that no calendar holds is still a number.
    at.filter(|_| seconds.unsigned_abs() < 1 << 37)
        .map_or_else(|| seconds.to_string(), time)
}

/// A time in seconds of the epoch, as RFC 3339 has it: `2026-11-22T17:03:28Z`.
pub(crate) fn unix_rfc3339(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// A length of time: `22.084765ms`, `1m6.5s`, `1h0m0s`.
pub(crate) fn duration(length: Duration) -> String {
    let nanos = length.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn fraction(nanos: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A gRPC status: `rpc error: code = NotFound desc = agent not found`.
pub(crate) fn status(status: &Status) -> String {
    let code = code(status.code() as i32);
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// The name of a gRPC code.
pub(crate) fn code(code: i32) -> String {
    let known = match Code::from(code) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown if code != Code::Unknown as i32 => return format!("Code({code})"),
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (22_084_765, "22.084765ms"),
            (5_000_000_000, "5s"),
            (66_500_000_000, "1m6.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn times_are_written_in_utc_and_impossible_ones_as_numbers() {
        assert_eq!(unix_time(4_102_444_800), "2100-01-01 00:00:00 +0000 UTC");
        assert_eq!(unix_time(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(unix_time(-1), "1969-12-31 23:59:59 +0000 UTC");
        assert_eq!(unix_time(i64::MAX), i64::MAX.to_string());
        assert_eq!(unix_time(i64::MIN), i64::MIN.to_string());
    }

    #[test]
    fn a_status_reads_as_gos() {
        assert_eq!(
            status(&Status::not_found("agent not found")),
            "rpc error: code = NotFound desc = agent not found"
        );
        assert_eq!(code(6), "AlreadyExists");
        assert_eq!(code(2), "Unknown");
        assert_eq!(code(99), "Code(99)");
    }
}
