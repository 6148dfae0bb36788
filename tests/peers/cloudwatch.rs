//! The daemon's monitoring against CloudWatch services that are not ours.

use serde_json::Value;

use crate::daemon::{Daemon, STREAM, lines};
use crate::python::{Kind, Service, python};

async fn what_is_published_is_read_back(kind: Kind) {
    let Some(python) = python() else { return };
    let service = Service::start(python, kind).await;
    service.create(STREAM).await;
    let settings = ["linger=1ms", "monitor.publish_namespace=hydrant", "listen.app.max_record_bytes=1000"];
    let daemon = Daemon::start(&service.endpoint, &settings).await;
    daemon.write(&lines(1500, 200)).await;
    daemon.write(&[&[b'x'; 2000], "\n".as_bytes()].concat()).await;
    daemon.until_settled(1500).await;
    // An interval is not over yet: what is published is what is at the end.
    assert!(daemon.stop().await.status.success());
    let sums: Value = serde_json::from_str(
        &python.run(&service.endpoint, "cloudwatch.py", &["sum", "hydrant", STREAM]).await,
    )
    .unwrap();
    for (name, expected) in [
        ("RecordsReceived", 1500.0),
        ("RecordsDelivered", 1500.0),
        ("BytesDelivered", 300_000.0),
        ("RecordsRejected", 1.0),
        ("RecordsDropped", 0.0),
    ] {
        assert_eq!(sums[name], expected, "{name}: {sums:#}");
    }
    assert_eq!(sums.as_object().unwrap().len(), 18, "{sums:#}");
}

#[tokio::test]
async fn moto_has_what_is_published() {
    what_is_published_is_read_back(Kind::Moto).await;
}

// R-M10
#[tokio::test]
async fn ministack_has_what_is_published() {
    what_is_published_is_read_back(Kind::Ministack).await;
}

async fn the_streams_metrics_are_read(kind: Kind) {
    let Some(python) = python() else { return };
    let service = Service::start(python, kind).await;
    service.create(STREAM).await;
    python.run(&service.endpoint, "cloudwatch.py", &["put", STREAM]).await;
    let mut daemon = Daemon::start(&service.endpoint, &["monitor.interval=1s"]).await;
    let said = daemon.until_said("Ingestion metrics").await;
    assert_eq!(
        (&said["incoming_bytes"], &said["incoming_records"]),
        (&123_456.0.into(), &789.0.into()),
        "{said}"
    );
    let monitor = daemon.status().await["monitor"].clone();
    assert_eq!(monitor["status"], "ACTIVE", "{monitor:#}");
    let readings = &monitor["readings"];
    assert_eq!(readings["bytes_per_second_limit"]["value"], 1_048_576.0, "{monitor:#}");
    assert_eq!(readings["data_freshness_seconds"]["value"], 61.0, "{monitor:#}");
    assert_eq!(readings["records_per_second_limit"], Value::Null, "{monitor:#}");
    assert!(daemon.stop().await.status.success());
}

// R-M10
#[tokio::test]
async fn motos_metrics_of_the_stream_are_read() {
    the_streams_metrics_are_read(Kind::Moto).await;
}

#[tokio::test]
async fn ministacks_metrics_of_the_stream_are_read() {
    the_streams_metrics_are_read(Kind::Ministack).await;
}
