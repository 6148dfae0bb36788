//! What was accepted and is not delivered yet, and the shape it is delivered in.
//!
//! One [`Buffer`] a delivery stream collects accepted data until it is large or old enough; what
//! it then gives up is an [`Object`], which knows its path as Firehose lays it out in S3.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// When a stream's data is delivered, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Goes before the date in an object's path, as it stands.
    pub(super) prefix: String,
    /// Data is delivered once there are this many bytes of it.
    pub(super) size: usize,
    /// Data is delivered once the oldest of it has waited this long.
    pub(super) interval: Duration,
    /// Whether objects are compressed with gzip.
    pub(super) gzip: bool,
}

/// Accepted data of one stream on its way into an object.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pieces: Vec<Bytes>,
    bytes: usize,
    records: u64,
    since: Option<Duration>,
    not_before: Duration,
}

/// Data that is ready to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// The data, in the order in which it was accepted.
    pub(super) pieces: Vec<Bytes>,
    /// Bytes of data, also where the data itself was not kept.
    pub(super) bytes: usize,
    /// Records that make it up.
    pub(super) records: u64,
    /// When the oldest of it was accepted.
    pub(super) since: Duration,
}

impl Buffer {
    /// Adds `records` records of together `bytes` bytes, accepted at `now`. Without `data` they
    /// are counted only.
    pub(super) fn append(&mut self, now: Duration, records: u64, bytes: usize, data: Option<Bytes>) {
        self.pieces.extend(data);
        self.bytes += bytes;
        self.records += records;
        self.since.get_or_insert(now);
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// When it will be time to deliver what is held; `None` while nothing is.
    pub(super) fn due(&self, delivery: &Delivery) -> Option<Duration> {
        let since = self.since?;
        let due = if self.bytes >= delivery.size { since } else { since + delivery.interval };
        Some(due.max(self.not_before))
    }

    /// All that is held, if it is large or old enough at `now`.
    pub(super) fn take_due(&mut self, now: Duration, delivery: &Delivery) -> Option<Object> {
        (self.due(delivery)? <= now).then(|| self.take())?
    }

    /// All that is held; `None` if that is nothing.
    pub(super) fn take(&mut self) -> Option<Object> {
        let Self { pieces, bytes, records, since, .. } = std::mem::take(self);
        Some(Object { pieces, bytes, records, since: since? })
    }

    /// Puts back, before everything else, an object that could not be delivered. It is not due
    /// again before `not_before`, however large it grows.
    pub(super) fn put_back(&mut self, not_before: Duration, mut object: Object) {
        object.pieces.append(&mut self.pieces);
        self.pieces = object.pieces;
        self.bytes += object.bytes;
        self.records += object.records;
        self.since = Some(object.since);
        self.not_before = not_before;
    }
}

impl Object {
    /// Where the object goes below its bucket: `<prefix>YYYY/MM/DD/HH/<stream>-1-YYYY-MM-DD-HH-MM-SS-<id>`,
    /// the time being that of its oldest data, in UTC; with gzip `.gz` follows.
    ///
    /// Source: <https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html>
    pub(super) fn path(&self, stream: &str, delivery: &Delivery, id: u128) -> String {
        let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + self.since).to_string();
        let hour = time.get(..13).unwrap_or_default().replace(['-', 'T'], "/");
        let second = time.get(..19).unwrap_or_default().replace(['T', ':'], "-");
        let (prefix, suffix) = (&delivery.prefix, if delivery.gzip { ".gz" } else { "" });
        format!("{prefix}{hour}/{stream}-1-{second}-{}{suffix}", uuid(id))
    }
}

/// A random (version 4) UUID made of the bits of `id`.
pub(super) fn uuid(id: u128) -> String {
    let part = |shift: u32, bits: u32| (id >> shift) & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 12),
        0x8000 | part(48, 14),
        part(0, 48)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // 2026-11-23T04:05:06Z
    const NOW: Duration = Duration::from_secs(1_795_406_706);

    fn delivery(prefix: &str, gzip: bool) -> Delivery {
        Delivery { prefix: prefix.into(), size: 100, interval: Duration::from_secs(60), gzip }
    }

    #[test]
    fn an_object_lies_where_firehose_would_put_it() {
        let object = Object { pieces: vec![], bytes: 0, records: 0, since: NOW };
        let check = |delivery: Delivery, expected: &str| {
            assert_eq!(object.path("clicks", &delivery, u128::MAX), expected);
        };
        let id = "ffffffff-ffff-4fff-bfff-ffffffffffff";
        check(delivery("", false), &format!("2026/11/23/04/clicks-1-2026-11-23-04-05-06-{id}"));
        check(
            delivery("logs/app-", true),
            &format!("logs/app-2026/11/23/04/clicks-1-2026-11-23-04-05-06-{id}.gz"),
        );
    }

    #[test]
    fn data_is_due_by_size_or_by_age() {
        let check = |bytes: usize, waited: u64, expected: bool| {
            let mut buffer = Buffer::default();
            buffer.append(NOW, 1, bytes, None);
            let taken = buffer.take_due(NOW + Duration::from_secs(waited), &delivery("", false));
            assert_eq!(taken.is_some(), expected, "{bytes} bytes after {waited} s");
        };
        check(99, 59, false);
        check(99, 60, true);
        check(100, 0, true);
        assert_eq!(Buffer::default().take_due(NOW, &delivery("", false)), None);
        assert_eq!(Buffer::default().due(&delivery("", false)), None);
    }

    #[test]
    fn an_object_that_was_put_back_waits_for_its_time() {
        let delivery = delivery("", false);
        let mut buffer = Buffer::default();
        buffer.append(NOW, 1, 500, None);
        let object = buffer.take_due(NOW, &delivery).unwrap();
        let later = NOW + Duration::from_secs(1);
        buffer.put_back(later, object.clone());
        assert_eq!(buffer.take_due(NOW, &delivery), None);
        assert_eq!(buffer.due(&delivery), Some(later));
        assert_eq!(buffer.take_due(later, &delivery), Some(object));
    }

    proptest! {
        #[test]
        fn objects_are_what_was_accepted_in_order(
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), 0_u64..90, any::<bool>()), 0..60),
        ) {
            let delivery = delivery("", false);
            let (mut buffer, mut now) = (Buffer::default(), NOW);
            let (mut accepted, mut delivered) = (Vec::new(), Vec::new());
            let mut records = 0;
            for (data, wait, fails) in steps {
                now += Duration::from_secs(wait);
                accepted.extend_from_slice(&data);
                buffer.append(now, 1, data.len(), Some(Bytes::from(data)));
                if let Some(object) = buffer.take_due(now, &delivery) {
                    if fails {
                        buffer.put_back(now + delivery.interval, object);
                    } else {
                        records += object.records;
                        delivered.extend(object.pieces.concat());
                    }
                }
            }
            if let Some(object) = buffer.take() {
                records += object.records;
                delivered.extend(object.pieces.concat());
            }
            prop_assert_eq!(&delivered, &accepted);
            prop_assert!(accepted.is_empty() || records > 0);
            prop_assert!(buffer.is_empty());
        }
    }
}
