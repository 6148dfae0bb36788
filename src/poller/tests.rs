//! The poller against a stream that is made up, on a clock that is too.

use std::sync::Mutex;

use super::*;
use crate::firehose::{Class, Description, Destination, PutError, Query};

/// Answers as it is told to, and keeps what it was asked.
#[derive(Default)]
struct Fake {
    denied: Mutex<Vec<&'static str>>,
    silent: Mutex<bool>,
    calls: Mutex<Vec<&'static str>>,
    queries: Mutex<Vec<Query>>,
    published: Mutex<Vec<(String, f64)>>,
}

impl Fake {
    async fn called(&self, action: &'static str) -> Result<(), WatchError> {
        self.calls.lock().unwrap().push(action);
        let silent = *self.silent.lock().unwrap();
        if silent {
            std::future::pending::<()>().await;
        }
        if self.denied.lock().unwrap().contains(&action) {
            return Err(WatchError::Denied(PutError {
                class: Class::Permanent,
                code: "AccessDenied".into(),
                message: format!("{action} is denied"),
                ambiguous: false,
            }));
        }
        Ok(())
    }

    fn count(&self, action: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|called| **called == action).count()
    }
}

impl Watch for Fake {
    async fn describe(&self, _: &str) -> Result<Description, WatchError> {
        self.called("describe").await?;
        Ok(Description {
            status: "ACTIVE".into(),
            kind: "DirectPut".into(),
            destination: Some(Destination::Splunk),
            ..Description::default()
        })
    }

    async fn metrics(
        &self,
        _: &str,
        queries: &[Query],
        start: SystemTime,
        _: SystemTime,
    ) -> Result<Vec<Vec<Datapoint>>, WatchError> {
        self.called("metrics").await?;
        *self.queries.lock().unwrap() = queries.to_vec();
        // A value for the first, and for the others none.
        let first = vec![Datapoint { at: start, value: 7.0 }];
        Ok([first].into_iter().chain(std::iter::repeat(Vec::new())).take(queries.len()).collect())
    }

    async fn publish(&self, publication: &Publication<'_>) -> Result<(), WatchError> {
        self.called("publish").await?;
        let received = publication.data.iter().find(|datum| datum.name == "RecordsReceived").unwrap();
        self.published.lock().unwrap().push((publication.namespace.to_owned(), received.sum));
        Ok(())
    }
}

struct Running {
    fake: Arc<Fake>,
    figures: Arc<Figures>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "the task of a test ends with it")]
fn start(fake: Fake, publish_namespace: Option<&str>) -> Running {
    let (fake, figures) = (Arc::new(fake), Arc::new(Figures::new(Arc::default(), now())));
    let stop = CancellationToken::new();
    let settings = Settings {
        stream: "app".into(),
        interval: Duration::from_secs(60),
        publish_namespace: publish_namespace.map(str::to_owned),
    };
    let task = tokio::spawn(run(Arc::clone(&fake), settings, Arc::clone(&figures), stop.clone()));
    Running { fake, figures, stop, task }
}

/// Lets made-up time pass, with every turn that falls due in it.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

// R-M1
#[tokio::test(start_paused = true)]
async fn the_stream_is_described_and_its_destinations_metrics_are_read() {
    let Running { fake, figures, .. } = start(Fake::default(), None);
    pass(11).await;
    let asked: Vec<_> = fake.queries.lock().unwrap().iter().map(|query| query.metric).collect();
    assert!(asked.contains(&"DeliveryToSplunk.DataFreshness"), "{asked:?}");
    let stream = figures.stream().clone();
    assert_eq!(stream.reading(Reading::IncomingBytes).unwrap().value, 7.0);
    assert_eq!(stream.reading(Reading::IncomingRecords), None, "no datapoint is unknown, not zero");
    assert_eq!(stream.description.unwrap().status, "ACTIVE");
    assert_eq!(fake.count("publish"), 0);
}

// R-M6
#[tokio::test(start_paused = true)]
async fn a_missing_permission_costs_what_it_is_for_and_nothing_else() {
    for (denied, action, others) in [
        ("describe", "DescribeDeliveryStream", ["metrics", "publish"]),
        ("metrics", "GetMetricData", ["describe", "publish"]),
        ("publish", "PutMetricData", ["describe", "metrics"]),
    ] {
        let fake = Fake::default();
        fake.denied.lock().unwrap().push(denied);
        let Running { fake, figures, .. } = start(fake, Some("apps"));
        pass(3600).await;
        let problems = figures.stream().problems.clone();
        assert_eq!(problems.keys().copied().collect::<Vec<_>>(), [action]);
        assert!(problems[action].contains(&format!("{action} is not allowed: ")), "{problems:?}");
        assert!((5..=8).contains(&fake.count(denied)), "{denied}: {}", fake.count(denied));
        for other in others {
            assert!(fake.count(other) >= 11, "{other} without {denied}");
        }
        // Once it is allowed, it is used.
        fake.denied.lock().unwrap().clear();
        pass(700).await;
        assert!(figures.stream().problems.is_empty());
    }
}

// R-M8
#[tokio::test(start_paused = true)]
async fn every_record_is_published_once_whether_or_not_a_call_failed() {
    let Running { fake, figures, stop, task } = start(Fake::default(), Some("apps"));
    let receive = |records| figures.ledger().received(crate::buffer::Count { records, bytes: 1 });
    receive(5);
    pass(80).await;
    receive(7);
    fake.denied.lock().unwrap().push("publish");
    pass(80).await;
    receive(11);
    fake.denied.lock().unwrap().clear();
    stop.cancel();
    task.await.unwrap();
    let published = fake.published.lock().unwrap().clone();
    assert_eq!(published.iter().map(|(_, sum)| sum).sum::<f64>(), 23.0, "{published:?}");
    assert!(published.iter().all(|(namespace, _)| namespace == "apps"));
}

// R-M7
#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_does_not_hold_up_the_end() {
    let fake = Fake::default();
    *fake.silent.lock().unwrap() = true;
    let Running { stop, task, .. } = start(fake, Some("apps"));
    pass(30).await;
    let stopped = now();
    stop.cancel();
    task.await.unwrap();
    let took = now() - stopped;
    assert!(took <= LAST_PUBLICATION, "{took:?}");
}

// R-M4
#[test]
fn the_latest_whole_minute_is_taken_and_a_growing_one_only_without_it() {
    let at = |minutes: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minutes);
    let points = |minutes: &[u64]| -> Vec<Datapoint> {
        minutes.iter().map(|minute| Datapoint { at: at(*minute), value: 1.0 }).collect()
    };
    let check = |minutes: &[u64], expected: Option<u64>| {
        let found = latest(&points(minutes), at(100)).map(|datapoint| datapoint.at);
        assert_eq!(found, expected.map(at), "{minutes:?}");
    };
    check(&[99, 98, 97], Some(98));
    check(&[98, 97], Some(98));
    check(&[90], Some(90));
    check(&[100, 99], Some(99));
    check(&[], None);
}
