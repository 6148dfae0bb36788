//! Figures of which every one has a value under each of its labels, as many as there can be.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hydrant::budget::Budget;
use hydrant::buffer::{Count, DropReason, Ledger, RejectReason};
use hydrant::firehose::{Datapoint, Description, Operation};
use hydrant::telemetry::figures::{Exported, Figures, Outcome, Signal, SpoolFigures};
use hydrant::telemetry::now;
use hydrant::telemetry::stream::{CallOutcome, Reading};

/// The actions that the monitor calls.
const ACTIONS: [&str; 3] = ["DescribeDeliveryStream", "GetMetricData", "PutMetricData"];

pub fn full() -> Figures {
    let ledger = Arc::new(Ledger::default());
    let figures = Figures::new(Arc::clone(&ledger), now());
    figures.set_stream_name("app");
    figures.set_buffer(vec![Budget::new(17 << 20)]);
    let mut spool = SpoolFigures::new("/var/lib/hydrant/spool".to_owned(), 1 << 30);
    spool.sync_duration.observe(0.003, 1);
    *figures.spool() = Some(spool);
    count_records(&ledger);
    count_requests(&figures);
    know_the_stream(&figures);
    for signal in [Signal::Metrics, Signal::Traces] {
        for outcome in [Exported::Ok, Exported::Partial, Exported::Failed] {
            figures.exports().insert((signal, outcome), 1);
        }
    }
    figures
}

fn count_records(ledger: &Ledger) {
    let one = Count { records: 1, bytes: 1000 };
    ledger.received(Count { records: 1_000_000, bytes: 1_000_000_000 });
    ledger.delivered(Count { records: 900_000, bytes: 900_000_000 });
    ledger.dead_lettered(one);
    DropReason::ALL.into_iter().for_each(|reason| ledger.dropped(reason, one));
    RejectReason::ALL.into_iter().for_each(|reason| ledger.rejected(reason, one));
}

fn count_requests(figures: &Figures) {
    let mut sender = figures.sender();
    for operation in Operation::ALL {
        for outcome in Outcome::ALL {
            sender.put(operation, outcome, Duration::from_millis(20), 500, 500_000);
        }
    }
    // More codes than have a label of their own.
    for number in 0..100 {
        sender.retry(&format!("MadeUpException{number}"), 1);
    }
    sender.delivery_latency.observe(1.5, 500);
    (sender.state.waits_for_quota, sender.quota_wait) = (true, Duration::from_secs(89));
    sender.state.pace = Some(97_000.0);
    (sender.compressed_from, sender.compressed_to) = (900_000_000, 200_000_000);
}

fn know_the_stream(figures: &Figures) {
    let mut stream = figures.stream();
    let datapoint = Datapoint { at: SystemTime::UNIX_EPOCH, value: 12_345.678 };
    stream.readings.extend(Reading::ALL.map(|reading| (reading, datapoint)));
    stream.polled_at = Some(now());
    stream.described_at = Some(now());
    stream.description = Some(Description {
        status: "ACTIVE".to_owned(),
        kind: "DirectPut".to_owned(),
        buffering: Some(Duration::from_secs(60)),
        ..Description::default()
    });
    for action in ACTIONS {
        for outcome in [CallOutcome::Ok, CallOutcome::Denied, CallOutcome::Throttled, CallOutcome::Failed] {
            stream.called(action, outcome, None);
        }
    }
}
