//! The embedded service's state and what each request does to it. Pure: time and dice come in,
//! answers and objects to deliver come out.
//!
//! Time is a [`Duration`] since the Unix epoch that never goes back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::api::{self, ApiError, CreateBody, ListBody, Operation, Puts};
use super::cloudwatch::{FIREHOSE, Metrics};
use super::faults::{Ending, FailCode, Fate, Faults, Spoil};
use super::quota::Quota;
use super::store::{Delivery, Object};
use super::stream::{self, Stream};
use super::{Counts, Options, Outcome, RequestSummary, StreamCounts};

/// Most delivery streams.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/limits.html> ("you can create up to
/// 5,000 Firehose streams").
const MAX_STREAMS: usize = 5_000;

/// Most bytes accepted and not delivered yet; beyond it puts are throttled.
const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;

/// Requests that are remembered.
const MAX_RECENT: usize = 10_000;

/// The state of the embedded service.
#[derive(Debug)]
pub(super) struct Service {
    streams: BTreeMap<String, Stream>,
    /// Counts of streams that were deleted.
    deleted: BTreeMap<String, StreamCounts>,
    pub(super) metrics: Metrics,
    pub(super) faults: Faults,
    dice: Rng,
    ids: Rng,
    recent: VecDeque<RequestSummary>,
    resets: u64,
    held: usize,
    delivery: Delivery,
    quota: (Option<u64>, Option<u64>),
    keep: bool,
}

/// What a put did.
#[derive(Debug)]
pub(super) struct Put {
    /// The body of the answer.
    pub(super) answer: Vec<u8>,
    /// Entries that failed.
    pub(super) failed: usize,
    /// Entries that were accepted.
    pub(super) accepted: usize,
    /// What became due for delivery by it.
    pub(super) due: Option<Parcel>,
    /// Whether it filled a buffer that was empty.
    pub(super) filled: bool,
}

/// An object on its way to where its stream delivers. Clones share its data.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) stream: String,
    pub(super) delivery: Delivery,
    pub(super) object: Object,
    /// Tells the object's name from all others.
    pub(super) id: u128,
}

impl Parcel {
    fn new(stream: &str, delivery: &Delivery, object: Object, ids: &mut Rng) -> Self {
        Self { stream: stream.to_owned(), delivery: delivery.clone(), object, id: ids.u128(..) }
    }
}

impl Service {
    /// A service with the streams of `options`, created at `now`; `ids` makes record ids and
    /// object names.
    ///
    /// # Errors
    ///
    /// As `CreateDeliveryStream` for each of the streams.
    pub(super) fn new(options: &Options, now: Duration, ids: Rng) -> Result<Self, ApiError> {
        let mut service = Self {
            streams: BTreeMap::new(),
            deleted: BTreeMap::new(),
            metrics: Metrics::default(),
            faults: options.faults.clone(),
            dice: Rng::with_seed(options.seed),
            ids,
            recent: VecDeque::new(),
            resets: 0,
            held: 0,
            delivery: Delivery {
                prefix: String::new(),
                size: options.buffer_bytes,
                interval: options.buffer_interval,
                gzip: false,
            },
            quota: (options.quota_bytes, options.quota_records),
            keep: options.directory.is_some(),
        };
        for name in &options.streams {
            let body = CreateBody { delivery_stream_name: Some(name.clone()), ..stream::plain(name) };
            service.create(now, body)?;
        }
        Ok(service)
    }

    /// The fate of the next put, by `operation`.
    pub(super) fn fate(&mut self, operation: Operation) -> Fate {
        self.faults.decide(operation, &mut self.dice)
    }

    /// Carries out a put that arrived at `now`, or refuses it as `fate` has it.
    ///
    /// # Errors
    ///
    /// What the service says of a request of which nothing was accepted.
    pub(super) fn put(
        &mut self,
        now: Duration,
        operation: Operation,
        puts: Puts,
        fate: Result<Ending, ApiError>,
    ) -> Result<Put, ApiError> {
        let Self { streams, metrics, faults, dice, ids, held, quota, .. } = self;
        let stream = streams.get_mut(&puts.stream).ok_or_else(|| ApiError::no_stream(&puts.stream))?;
        let mut emit = |name: &'static str, unit: &'static str, value: f64| {
            metrics.add(now, FIREHOSE, name, &[("DeliveryStreamName", &puts.stream)], unit, value);
        };
        // Whoever paces itself by these must not wait for a limit that is none.
        let limits =
            [("BytesPerSecondLimit", "Bytes/Second", quota.0), ("RecordsPerSecondLimit", "Count", quota.1)];
        for (name, unit, limit) in limits {
            if let Some(limit) = limit {
                emit(name, unit, limit as f64);
            }
        }

        let counts = &mut stream.counts;
        let ending = match fate {
            Ok(ending) => ending,
            Err(error) => {
                counts.refused_requests += 1;
                if error.code == "ThrottlingException" {
                    counts.throttled_requests += 1;
                    emit("ThrottledRecords", "Count", puts.ends.len() as f64);
                }
                return Err(error);
            }
        };
        if puts.records().any(|record| faults.refuses(record)) {
            counts.refused_requests += 1;
            return Err(ApiError::invalid("Invalid record"));
        }

        // What follows is the only place where records are accepted. Once one does not fit the
        // quota none behind it does, as when the service throttles.
        let mut throttled = *held + puts.data.len() > MAX_HELD_BYTES;
        let mut bytes = 0;
        let entries: Vec<Option<FailCode>> = puts
            .records()
            .map(|record| {
                if let Some(code) = faults.entry(record, dice) {
                    return Some(code);
                }
                throttled = throttled || !stream.quota.take(now, record.len());
                if throttled {
                    return Some(FailCode::ServiceUnavailable);
                }
                bytes += record.len();
                None
            })
            .collect();
        let failed = entries.iter().flatten().count();
        let accepted = entries.len() - failed;
        let throttles = entries.iter().filter(|e| **e == Some(FailCode::ServiceUnavailable)).count();
        counts.throttled_requests += u64::from(throttled);
        if throttles > 0 {
            emit("ThrottledRecords", "Count", throttles as f64);
        }
        let single = operation == Operation::PutRecord;
        if let (true, Some(Some(code))) = (single, entries.first()) {
            counts.refused_requests += 1;
            return Err(code.error());
        }
        counts.failed_entries += failed as u64;
        let filled = accepted > 0 && stream.buffer.is_empty();
        if accepted > 0 {
            emit("IncomingBytes", "Bytes", bytes as f64);
            emit("IncomingRecords", "Count", accepted as f64);
            emit("IncomingPutRequests", "Count", 1.0);
            let [of_bytes, of_records, of_requests] = match single {
                true => ["PutRecord.Bytes", "", "PutRecord.Requests"],
                false => ["PutRecordBatch.Bytes", "PutRecordBatch.Records", "PutRecordBatch.Requests"],
            };
            emit(of_bytes, "Bytes", bytes as f64);
            emit(of_requests, "Count", 1.0);
            if !single {
                emit(of_records, "Count", accepted as f64);
            }
            counts.requests += 1;
            counts.records += accepted as u64;
            counts.bytes += bytes as u64;
            if ending != Ending::Answered {
                counts.ambiguous_requests += 1;
                counts.ambiguous_records += accepted as u64;
            }
            let data = self.keep.then(|| match failed {
                0 => puts.data.clone(),
                // Copied, so that a few accepted records do not hold the memory of all others.
                _ => {
                    let accepted = puts.records().zip(&entries).filter(|(_, entry)| entry.is_none());
                    accepted.map(|(record, _)| record).collect::<Vec<_>>().concat().into()
                }
            });
            *held += data.as_ref().map_or(0, bytes::Bytes::len);
            stream.buffer.append(now, accepted as u64, bytes, data);
        }

        let prefix: String = (0..api::ID_PREFIX_CHARS).map(|_| ids.alphanumeric()).collect();
        let answer = match single {
            true => api::answer(&prefix),
            false => {
                let wrong = usize::from(ending == Ending::Spoilt(Spoil::WrongCount));
                let short = usize::from(ending == Ending::Spoilt(Spoil::OneShort));
                let entries = entries.iter().take(entries.len() - short);
                let entries: Vec<_> = entries.map(|entry| entry.map(FailCode::failed)).collect();
                api::batch_answer(&prefix, &entries, failed + wrong)
            }
        };
        let due = stream.buffer.take_due(now, &stream.delivery);
        let filled = filled && due.is_none();
        let due = due.map(|object| Parcel::new(&puts.stream, &stream.delivery, object, ids));
        Ok(Put { answer, failed, accepted, due, filled })
    }

    /// Counts as ambiguous a request of `accepted` records whose answer was not sent.
    pub(super) fn answer_lost(&mut self, stream: &str, accepted: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.counts.ambiguous_requests += 1;
            stream.counts.ambiguous_records += accepted as u64;
        }
    }

    /// Remembers a request that was finished at `now`.
    pub(super) fn finished(&mut self, now: Duration, started: Duration, summary: RequestSummary) {
        let took_ms = now.saturating_sub(started).as_secs_f64() * 1e3;
        let name = match summary.operation {
            Some(Operation::PutRecord) => Some("PutRecord.Latency"),
            Some(Operation::PutRecordBatch) => Some("PutRecordBatch.Latency"),
            Some(Operation::DescribeDeliveryStream) => Some("DescribeDeliveryStream.Latency"),
            _ => None,
        };
        if let (Some(name), Outcome::Answered { .. }) = (name, &summary.outcome) {
            let dimension = [("DeliveryStreamName", summary.stream.as_str())];
            self.metrics.add(now, FIREHOSE, name, &dimension, "Milliseconds", took_ms);
        }
        self.resets += u64::from(summary.outcome == Outcome::Reset);
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(summary);
    }

    /// `CreateDeliveryStream`.
    pub(super) fn create(&mut self, now: Duration, body: CreateBody) -> Result<Value, ApiError> {
        let name = api::stream_name(body.delivery_stream_name.as_deref())?.to_owned();
        if self.streams.contains_key(&name) {
            let message = format!("Firehose {name} under accountId {} already exists", api::ACCOUNT);
            return Err(ApiError::new(400, "ResourceInUseException", message));
        }
        if self.streams.len() >= MAX_STREAMS {
            let message = format!("You have already consumed your firehose quota of {MAX_STREAMS} hoses.");
            return Err(ApiError::new(400, "LimitExceededException", message));
        }
        let quota = Quota::new(self.quota.0, self.quota.1);
        let stream = Stream::create(&name, body, now, &self.delivery, quota)?;
        let answer = json!({ "DeliveryStreamARN": stream.arn() });
        self.streams.insert(name, stream);
        Ok(answer)
    }

    /// `DeleteDeliveryStream`; what the stream still held is to be delivered by the caller.
    pub(super) fn delete(&mut self, name: Option<&str>) -> Result<(Value, Option<Parcel>), ApiError> {
        let name = api::stream_name(name)?;
        let (name, mut stream) = self.streams.remove_entry(name).ok_or_else(|| ApiError::no_stream(name))?;
        let held = stream.buffer.take();
        let parcel = held.map(|object| Parcel::new(&name, &stream.delivery, object, &mut self.ids));
        self.deleted.entry(name).or_default().add(&stream.counts);
        Ok((json!({}), parcel))
    }

    /// `DescribeDeliveryStream`.
    pub(super) fn describe(&self, name: Option<&str>) -> Result<Value, ApiError> {
        let name = api::stream_name(name)?;
        self.streams.get(name).map(Stream::describe).ok_or_else(|| ApiError::no_stream(name))
    }

    /// `ListDeliveryStreams`.
    pub(super) fn list(&self, body: &ListBody) -> Result<Value, ApiError> {
        // Default and bounds: the API model of `ListDeliveryStreams`.
        let limit = body.limit.unwrap_or(10);
        if !(1..=10_000).contains(&limit) {
            return Err(ApiError::invalid(format!("Limit must be between 1 and 10000, not {limit}")));
        }
        let after = match body.exclusive_start_delivery_stream_name.as_deref() {
            Some(name) => Bound::Excluded(name),
            None => Bound::Unbounded,
        };
        let wanted = body.delivery_stream_type.as_deref().is_none_or(|kind| kind == "DirectPut");
        let mut names =
            self.streams.range::<str, _>((after, Bound::Unbounded)).map(|(name, _)| name).filter(|_| wanted);
        let page: Vec<&String> = names.by_ref().take(limit).collect();
        Ok(json!({ "DeliveryStreamNames": page, "HasMoreDeliveryStreams": names.next().is_some() }))
    }

    /// When the next buffer will be due; `None` while all are empty.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.streams.values().filter_map(|stream| stream.buffer.due(&stream.delivery)).min()
    }

    /// What is due for delivery at `now`.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<Parcel> {
        let ids = &mut self.ids;
        let due = |(name, stream): (&String, &mut Stream)| {
            let object = stream.buffer.take_due(now, &stream.delivery)?;
            Some(Parcel::new(name, &stream.delivery, object, ids))
        };
        self.streams.iter_mut().filter_map(due).collect()
    }

    /// All that waits for delivery, due or not.
    pub(super) fn take_all(&mut self) -> Vec<Parcel> {
        let ids = &mut self.ids;
        let all = |(name, stream): (&String, &mut Stream)| {
            Some(Parcel::new(name, &stream.delivery, stream.buffer.take()?, ids))
        };
        self.streams.iter_mut().filter_map(all).collect()
    }

    /// Counts a parcel that was delivered at `now`.
    pub(super) fn delivered(&mut self, now: Duration, parcel: &Parcel) {
        let Parcel { stream, object, .. } = parcel;
        let mut emit = |name: &'static str, unit: &'static str, value: f64| {
            self.metrics.add(now, FIREHOSE, name, &[("DeliveryStreamName", stream)], unit, value);
        };
        emit("DeliveryToS3.Bytes", "Bytes", object.bytes as f64);
        emit("DeliveryToS3.Records", "Count", object.records as f64);
        emit("DeliveryToS3.Success", "Count", 1.0);
        let age = now.saturating_sub(object.since).as_secs_f64();
        emit("DeliveryToS3.DataFreshness", "Seconds", age);
        self.held -= object.pieces.iter().map(bytes::Bytes::len).sum::<usize>();
        let counts = match self.streams.get_mut(stream) {
            Some(stream) => &mut stream.counts,
            None => self.deleted.entry(stream.clone()).or_default(),
        };
        counts.delivered_records += object.records;
        counts.delivered_bytes += object.bytes as u64;
        counts.objects += 1;
    }

    /// Takes back a parcel that could not be delivered; it is due again one buffering interval
    /// after `now`, at least a second. False, and the data gone, if its stream is.
    pub(super) fn put_back(&mut self, now: Duration, parcel: Parcel) -> bool {
        let dimension = [("DeliveryStreamName", parcel.stream.as_str())];
        self.metrics.add(now, FIREHOSE, "DeliveryToS3.Success", &dimension, "Count", 0.0);
        let pause = parcel.delivery.interval.max(Duration::from_secs(1));
        match self.streams.get_mut(&parcel.stream) {
            Some(stream) => stream.buffer.put_back(now + pause, parcel.object),
            None => {
                self.held -= parcel.object.pieces.iter().map(bytes::Bytes::len).sum::<usize>();
                return false;
            }
        }
        true
    }

    /// What was counted so far.
    pub(super) fn counts(&self) -> Counts {
        let mut streams = self.deleted.clone();
        for (name, stream) in &self.streams {
            streams.entry(name.clone()).or_default().add(&stream.counts);
        }
        Counts { streams, resets: self.resets }
    }

    /// The latest requests, the oldest first.
    pub(super) fn recent(&self) -> Vec<RequestSummary> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    // By name: the globs below would bring two.
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1_800_000_000);

    fn puts(records: &[Vec<u8>]) -> Puts {
        let ends = records.iter().scan(0, |end, record| {
            *end += record.len();
            Some(*end)
        });
        Puts { stream: "local".into(), data: records.concat().into(), ends: ends.collect() }
    }

    proptest! {
        #[test]
        fn what_is_answered_as_accepted_is_delivered_and_nothing_else(
            steps in prop::collection::vec(
                (prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..20), 0_u64..2_000, 0..4),
                1..40,
            ),
            fail_records in prop_oneof![Just(0.0), 0.0..1.0_f64],
            quota_bytes in prop::option::of(0_u64..400),
            buffer_bytes in 1_usize..400,
            seed in any::<u64>(),
        ) {
            let faults = Faults { fail_records, ..Faults::default() };
            let options = Options {
                faults,
                quota_bytes,
                buffer_bytes,
                buffer_interval: Duration::from_secs(1),
                directory: Some("/nowhere".into()),
                seed,
                ..Options::default()
            };
            let mut service = Service::new(&options, START, Rng::with_seed(seed)).unwrap();
            let (mut now, mut accepted, mut delivered) = (START, Vec::new(), Vec::new());
            let mut accepted_records = 0;
            for (records, wait_ms, disk) in steps {
                now += Duration::from_millis(wait_ms);
                let put =
                    service.put(now, Operation::PutRecordBatch, puts(&records), Ok(Ending::Answered)).unwrap();
                let answer: Value = serde_json::from_slice(&put.answer).unwrap();
                let entries = answer["RequestResponses"].as_array().unwrap();
                prop_assert_eq!(entries.len(), records.len());
                prop_assert_eq!(answer["FailedPutCount"].as_u64(), Some(put.failed as u64));
                for (record, entry) in records.iter().zip(entries) {
                    if entry.get("RecordId").is_some() {
                        accepted.extend_from_slice(record);
                        accepted_records += 1;
                    }
                }
                for parcel in Vec::from_iter(put.due).into_iter().chain(service.take_due(now)) {
                    // One time in four the disk fails.
                    if disk == 0 {
                        prop_assert!(service.put_back(now, parcel));
                    } else {
                        delivered.extend(parcel.object.pieces.concat());
                        service.delivered(now, &parcel);
                    }
                }
                prop_assert_eq!(service.held, accepted.len() - delivered.len());
            }
            for parcel in service.take_all() {
                delivered.extend(parcel.object.pieces.concat());
                service.delivered(now, &parcel);
            }
            prop_assert_eq!(&delivered, &accepted);
            let counts = service.counts().total();
            prop_assert_eq!((counts.records, counts.bytes), (accepted_records, accepted.len() as u64));
            prop_assert_eq!((counts.delivered_records, counts.delivered_bytes), (counts.records, counts.bytes));
            prop_assert_eq!(service.next_due(), None);
        }
    }

    #[test]
    fn more_than_can_be_held_is_throttled() {
        let options =
            Options { directory: Some("/nowhere".into()), buffer_bytes: usize::MAX, ..Options::default() };
        let mut service = Service::new(&options, START, Rng::with_seed(0)).unwrap();
        let data = Bytes::from(vec![0; 4 * 1024 * 1024]);
        let mut put = || {
            let puts = Puts { stream: "local".into(), data: data.clone(), ends: vec![data.len()] };
            service.put(START, Operation::PutRecordBatch, puts, Ok(Ending::Answered)).unwrap().failed
        };
        assert_eq!((0..64).map(|_| put()).sum::<usize>(), 0);
        assert_eq!(put(), 1);
        for parcel in service.take_all() {
            service.delivered(START, &parcel);
        }
        let puts = Puts { stream: "local".into(), data: data.clone(), ends: vec![data.len()] };
        let put = service.put(START, Operation::PutRecordBatch, puts, Ok(Ending::Answered)).unwrap();
        assert_eq!(put.failed, 0);
    }

    #[test]
    fn the_latest_requests_are_remembered() {
        let mut service = Service::new(&Options::default(), START, Rng::with_seed(0)).unwrap();
        for records in 0..MAX_RECENT + 5 {
            let summary = RequestSummary {
                at: Duration::ZERO,
                operation: None,
                stream: String::new(),
                records,
                bytes: 0,
                outcome: Outcome::Reset,
            };
            service.finished(START, START, summary);
        }
        let recent = service.recent();
        assert_eq!((recent.len(), recent[0].records), (MAX_RECENT, 5));
        assert_eq!(service.counts().resets, MAX_RECENT as u64 + 5);
    }
}
