//! Spans and moments.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};

use super::{RestoreError, SaveError, leaf};

const NANOS: i128 = 1_000_000_000;

leaf!(
    Duration,
    Duration,
    |value, out| {
        out.scalar(value.as_secs())?;
        out.scalar(value.subsec_nanos())
    },
    |input| {
        let (secs, nanos) = (input.scalar()?, input.scalar::<u32>()?);
        if nanos >= 1_000_000_000 {
            return Err(RestoreError::new("a fraction of a second that is more than one"));
        }
        Ok(Duration::new(secs, nanos))
    }
);

// On the wire: nanoseconds since the Unix epoch.
leaf!(
    SystemTime,
    SystemTime,
    |value, out| out.scalar(match value.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }),
    |input| shifted(SystemTime::UNIX_EPOCH, input.scalar()?, SystemTime::checked_add, SystemTime::checked_sub)
);

// On the wire: nanoseconds of CLOCK_MONOTONIC, which is one for the whole host from boot to boot, clock_gettime(2).
leaf!(
    Instant,
    Instant,
    |value, out| {
        let (instant, clock) =
            anchor().map_err(|errno| SaveError::io("the monotonic clock cannot be read", errno.into()))?;
        let since = match value.checked_duration_since(instant) {
            Some(after) => nanos(after),
            None => -nanos(instant.duration_since(*value)),
        };
        out.scalar(clock + since)
    },
    |input| {
        let (instant, clock) =
            anchor().map_err(|errno| RestoreError::io("the monotonic clock cannot be read", errno.into()))?;
        let since = input
            .scalar::<i128>()?
            .checked_sub(clock)
            .ok_or_else(|| RestoreError::new("a moment that is out of all range"))?;
        shifted(instant, since, Instant::checked_add, Instant::checked_sub)
    }
);

/// One moment, as an `Instant` and by the clock under it.
///
/// std does not show that clock, so both are read one after the other. That is done once in a process: all moments are
/// then off by the same fraction of a microsecond, and the distances between them stay exact.
fn anchor() -> Result<(Instant, i128), Errno> {
    static ANCHOR: OnceLock<Result<(Instant, i128), Errno>> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        // The process may be interrupted in between; of several pairs the closest is taken.
        let pairs = (0..8).map(|_| {
            let before = Instant::now();
            let clock = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            let took = before.elapsed();
            Ok((took, before + took / 2, i128::from(clock.tv_sec()) * NANOS + i128::from(clock.tv_nsec())))
        });
        let pairs = pairs.collect::<Result<Vec<_>, Errno>>()?;
        let closest = pairs.into_iter().min_by_key(|(took, ..)| *took);
        closest.map(|(_, instant, clock)| (instant, clock)).ok_or(Errno::EINVAL)
    })
}

fn nanos(duration: Duration) -> i128 {
    i128::from(duration.as_secs()) * NANOS + i128::from(duration.subsec_nanos())
}

fn shifted<T>(
    from: T,
    nanos: i128,
    add: fn(&T, Duration) -> Option<T>,
    sub: fn(&T, Duration) -> Option<T>,
) -> Result<T, RestoreError> {
    let size = nanos.unsigned_abs();
    let moment = u64::try_from(size / NANOS.unsigned_abs()).ok().and_then(|secs| {
        // The remainder is less than a second, so it fits.
        let by = Duration::new(secs, (size % NANOS.unsigned_abs()) as u32);
        if nanos < 0 { sub(&from, by) } else { add(&from, by) }
    });
    moment.ok_or_else(|| RestoreError::new("a moment that is out of all range"))
}
