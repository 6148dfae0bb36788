//! What the screen shows of documents as a daemon writes them, and of any others.

#![cfg(feature = "top")]

use std::time::{Duration, Instant};

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::model::{History, Look, Model, read};
use super::session::{Event, Session};
use super::theme::Theme;
use super::view::{self, Manner};

const PLAIN: Manner = Manner { theme: Theme { colour: false }, paused: false, help: false };

/// The status of a daemon whose records flow, as it writes it.
fn healthy() -> Value {
    let count = |records: u64| json!({ "records": records, "bytes": records * 100 });
    json!({
        "version": "0.1.0", "uptime_seconds": 7385, "state": "running", "delivery_stream_name": "app-logs",
        "listeners": [{ "name": "app", "address": "unix:/run/hydrant/app.sock" }], "connections": 3,
        "live": true, "ready": true, "reasons": [],
        "stuck": { "at": "nowhere", "level": "ok", "why": "records flow" },
        "ledger": {
            "received": count(12_345), "recovered": count(0), "delivered": count(12_000),
            "dead_lettered": count(0), "held": count(345),
            "dropped": { "buffer_full": count(0), "shutdown": count(0) },
            "rejected": { "too_long": count(0), "unfinished": count(0) },
        },
        "rates": {
            "window_ms": 10_000, "received_records_per_second": 512.4, "received_bytes_per_second": 51_240.0,
            "delivered_records_per_second": 510.0, "delivered_bytes_per_second": 51_000.0,
            "retried_records_per_second": 0.0, "requests_per_second": 2.5, "billed_bytes_per_second": 2e6,
        },
        "buffer": {
            "memory_bytes": 33_554_432, "records_bytes": 17_825_792, "reserved_bytes": 4_456_448,
            "wanted_bytes": 0, "oldest_record_age_ms": 350,
        },
        "stream": {
            "in_flight_requests": 1, "max_in_flight_requests": 8,
            "requests": { "PutRecordBatch": { "ok": 25 } }, "retried": {}, "billed_bytes": 61_440_000,
            "unpacked_billed_bytes": 614_400_000,
            "packing": { "packed": true, "reason": "S3 takes records as one text" },
            "ambiguous_records": 0, "put_seconds_p50_below": 0.025, "put_seconds_p99_below": 0.1,
            "delivery_seconds_p50_below": 1.0, "delivery_seconds_p99_below": 2.5, "trouble": null,
        },
        "monitor": {
            "interval_ms": 60_000, "described_ms_ago": 12_000, "polled_ms_ago": 12_000, "status": "ACTIVE",
            "type": "DirectPut", "destination": "S3", "encryption": "ENABLED", "processors": [],
            "buffering_seconds": 60,
            "readings": {
                "incoming_bytes": { "value": 3_000_000.0, "at": 1_700_000_000 },
                "incoming_records": { "value": 30_000.0, "at": 1_700_000_000 },
                "throttled_records": { "value": 0.0, "at": 1_700_000_000 },
                "data_freshness_seconds": { "value": 61.0, "at": 1_700_000_000 },
                "delivery_success_ratio": null,
            },
            "quota_use": { "bytes": 0.05, "records": null, "put_requests": 0.001 },
            "problems": {},
        },
        "process": { "cpu": 0.123, "cpu_seconds": 900.0, "resident_bytes": 37_748_736 },
        "sample": [0, 12_000, 11_700, 300],
    })
}

/// `document` with the member at `path` replaced.
fn with(mut document: Value, path: &str, value: Value) -> Value {
    *document.pointer_mut(path).unwrap() = value;
    document
}

fn idle() -> Value {
    let stuck = json!({ "at": "producer", "level": "idle", "why": "no records come in; 0 connections open" });
    let none = json!({ "records": 0, "bytes": 0 });
    let idle = with(with(healthy(), "/stuck", stuck), "/ledger/held", none);
    with(with(idle, "/connections", json!(0)), "/buffer/oldest_record_age_ms", Value::Null)
}

fn in_trouble() -> Value {
    let why = "ThrottlingException for 42 s: the stream's quota is spent; raise it, or send less";
    let stuck = json!({ "at": "firehose", "level": "warning", "why": why });
    let trouble = with(with(healthy(), "/stuck", stuck), "/ready", json!(false));
    let trouble = with(trouble, "/buffer/wanted_bytes", json!(2_097_152));
    let trouble = with(trouble, "/ledger/dropped/buffer_full", json!({ "records": 7, "bytes": 700 }));
    let outcomes = json!({ "ok": 25, "partial": 3, "throttled": 9 });
    let trouble = with(trouble, "/stream/requests/PutRecordBatch", outcomes);
    with(trouble, "/stream/retried", json!({ "InternalFailure": 4, "ThrottlingException": 4321 }))
}

fn history() -> History {
    let columns = ["age_ms", "received_records", "delivered_records", "held_records"];
    let row = |number: u64| [60_000 - 2000 * number, 400 * number, 390 * number, 10 * number];
    History {
        columns: columns.map(str::to_owned).to_vec(),
        rows: (0..30).map(|number| row(number).map(Some).to_vec()).collect(),
    }
}

fn model(status: &Value) -> (Model, Instant) {
    let now = crate::telemetry::now();
    let status = read(status.to_string().as_bytes()).unwrap();
    let look = Look { status, history: Some(history()) };
    (Model::new("tcp:127.0.0.1:9464".to_owned(), Duration::from_secs(2), look, now), now)
}

/// What is drawn on a terminal of this size.
fn drawn(draw: impl FnOnce(&mut ratatui::Frame<'_>), width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(draw).unwrap();
    terminal.backend().buffer().clone()
}

fn screen(status: &Value, width: u16, height: u16) -> Buffer {
    let (model, now) = model(status);
    drawn(|frame| view::draw(frame, &model, PLAIN, now), width, height)
}

/// The lines of the screen, without the blanks at their ends.
fn lines(screen: &Buffer) -> Vec<String> {
    let width = usize::from(screen.area.width).max(1);
    let lines = screen.content.chunks(width);
    lines
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn check(status: &Value, (width, height): (u16, u16), expected: &[&str]) {
    let lines = lines(&screen(status, width, height));
    for expected in expected {
        assert!(
            lines.iter().any(|line| line.contains(expected)),
            "no {expected:?} on {width}x{height}:\n{}",
            lines.join("\n")
        );
    }
}

const SIZES: [(u16, u16); 5] = [(60, 20), (80, 24), (120, 34), (130, 40), (200, 60)];

#[test]
fn the_smallest_screen_has_what_matters() {
    let lines = lines(&screen(&healthy(), 60, 20));
    let expected = "
 hydrant 0.1.0, stream app-logs, running for 2 h 3 min
 producers ───▶ daemon ─────▶ Firehose ────▶ destination
 3 connected    345 held      1/8 in flight  S3
 OK: records flow
 in              512 records/s · 50.0 KiB/s      BARS
 out             510 records/s · 49.8 KiB/s      BARS
 held            345 records · 33.7 KiB · oldest 350 ms
 memory          ███░░░░░░░ 25 % of 17.0 MiB reserved
 waiting         no producer waits for memory
 in flight       1 of 8 requests
 PutRecordBatch  ok 25
 sent again      no records
 received        12,345 · 1.2 MiB
 delivered       12,000 · 1.1 MiB
 ledger          adds up: 12,345 = 12,000 + 0 + 0 + 345
 billed          58.6 MiB · 51.20 × the bytes delivered
 stream          ACTIVE · DirectPut · S3 · encryption ENAB…
 quotas used     bytes 5.0 % · records unknown · requests …
 process         12 % of a core · 36.0 MiB resident
 q quit · p pause · ? help";
    for (line, expected) in lines.iter().zip(expected.trim_start_matches('\n').lines()) {
        match expected.split_once("BARS") {
            Some((start, _)) => assert!(
                line.starts_with(start.trim_end()) && line.chars().any(|c| ('▁'..='█').contains(&c)),
                "{line}"
            ),
            None => assert_eq!(line, expected),
        }
    }
    assert_eq!(lines.len(), 20);
}

// R-A6
#[test]
fn what_packing_saves_is_shown_with_the_reason() {
    let size = (200, 60);
    check(&healthy(), size, &["90 % of the 585.9 MiB without packing", "yes: S3 takes records as one text"]);
    let packing = json!({ "packed": false, "reason": "Splunk takes each record by itself" });
    let unpacked =
        with(with(healthy(), "/stream/packing", packing), "/stream/billed_bytes", json!(614_400_000));
    check(
        &unpacked,
        size,
        &["0 % of the 585.9 MiB without packing", "no: Splunk takes each record by itself"],
    );
    check(&with(healthy(), "/stream/packing", Value::Null), size, &["packed  unknown"]);
}

// R-A6
#[test]
fn how_much_smaller_compression_makes_records_is_shown_where_it_is_on() {
    let compression = json!({ "input_bytes": 943_718_400, "output_bytes": 209_715_200 });
    let mut compressed = healthy();
    compressed["stream"]["compression"] = compression;
    check(&compressed, (200, 60), &["compressed  4.50 × smaller · 900.0 MiB to 200.0 MiB"]);
    let plain = with(compressed, "/stream/compression", Value::Null);
    assert!(!lines(&screen(&plain, 200, 60)).join("\n").contains("compressed"));
}

/// The same daemon with three streams, one of which is in trouble.
fn several() -> Value {
    let count = |records: u64| json!({ "records": records, "bytes": records * 100 });
    let stream = |name: &str, held: u64, delivered: u64| {
        json!({
            "delivery_stream_name": name, "ledger": { "held": count(held), "delivered": count(delivered) },
            "oldest_record_age_ms": if held > 0 { json!(350) } else { Value::Null },
            "requests": { "PutRecordBatch": { "ok": 5 } }, "retried": {}, "trouble": null, "spool": null,
            "packing": { "packed": name == "audit", "reason": "it is so" },
        })
    };
    let mut gone = stream("gone", 300, 0);
    gone["trouble"] =
        json!({ "permanent": true, "error_code": "ResourceNotFoundException", "since_ms": 42_000 });
    gone["retried"] = json!({ "ResourceNotFoundException": 300, "InternalFailure": 7 });
    gone["requests"] = json!({ "PutRecordBatch": { "throttled": 9 }, "PutRecord": { "throttled": 1 } });
    gone["spool"] = json!({ "bytes": 1_048_576 });
    gone["packing"] = Value::Null;
    let mut status = with(healthy(), "/stream/packing", Value::Null);
    status["streams"] = json!([stream("app-logs", 0, 10_000), stream("audit", 45, 2000), gone]);
    status
}

// R-V11
#[test]
fn each_of_several_streams_has_a_row_of_its_own_and_one_in_trouble_the_first() {
    let gone = "gone     · ResourceNotFoundException for 42 s · 300 held · oldest 350 ms · 0 delivered · \
                307 sent again · 10 requests throttled · spool 1.0 MiB";
    let others = [
        "app-logs · 0 held · 10,000 delivered · 0 sent again · not packed",
        "audit    · 45 held · oldest 350 ms · 2,000 delivered · 0 sent again · packed",
    ];
    check(&several(), (200, 60), &["stream app-logs and 2 more, running", gone, others[0], others[1]]);
    check(&several(), (130, 44), &["gone     · ResourceNotFoundException for 42 s", others[0], others[1]]);
    let first = others[0].trim_end_matches(" · not packed");
    check(&several(), (80, 34), &["gone     · ResourceNotFoundException for 42 s · 300 held", first]);
    // Where there is little room it is the streams in trouble that are shown.
    check(&several(), (60, 20), &["streams         gone     · ResourceNotFoundException for …"]);
    let (model, now) = model(&several());
    let text = view::text(&model, now);
    assert!(text.contains(&format!("\nstreams\n  streams         {gone}\n")), "{text}");
    assert!(text.contains("\n  stream          app-logs · ACTIVE"), "{text}");
    assert!(text.contains("\n  packed          as the stream is"), "{text}");
    assert!(!lines(&screen(&healthy(), 200, 60)).join("\n").contains("streams"));
}

#[test]
fn every_size_has_the_stations_the_ledger_and_the_process() {
    for size in SIZES {
        check(
            &healthy(),
            size,
            &[
                "stream app-logs, running",
                "producers ─",
                "Firehose ─",
                "OK: records flow",
                "512 records/s",
                "adds up: 12,345 = 12,000 + 0 + 0 + 345",
                "58.6 MiB · 51.20 ×",
                "12 % of a core · 36.0 MiB resident",
                "q quit",
            ],
        );
    }
}

#[test]
fn a_large_screen_has_plots_and_every_row() {
    for size in [(130, 40), (200, 60)] {
        check(
            &healthy(),
            size,
            &[
                "last 1 min, at most 200/s",
                "half below 25 ms · 99 % below 100 ms",
                "2.5 requests/s · 0 records/s sent again",
                "dead-lettered  none",
                "bytes 5.0 % · records unknown · requests 0.1 %",
                "30,000 records · 2.9 MiB · 0 throttled",
                "oldest underway 1 min 1 s · success unknown",
                "looked at    12 s ago",
            ],
        );
    }
}

#[test]
fn where_it_is_stuck_is_in_brackets_and_the_reason_is_told_in_full() {
    for (width, height) in SIZES {
        let lines = lines(&screen(&in_trouble(), width, height));
        assert!(lines[0].contains("NOT READY"), "{lines:#?}");
        assert!(lines[1].contains("[Firehose] ─"), "{lines:#?}");
        let told = lines[3..6].join("").replace("  ", " ");
        let why = " WARNING at Firehose: ThrottlingException for 42 s: the stream's quota is spent; raise it, or send less";
        assert!(told.starts_with(why), "{told}");
    }
    check(
        &in_trouble(),
        (60, 20),
        &[
            "producers wait for 2.0 MiB",
            "ok 25 · partial 3 · throttled 9",
            "sent again      ThrottlingException 4,321",
            "dropped         7 records · buffer full 7",
            "DOES NOT ADD UP: 12,345 ≠ 12,000 + 0 + 7 …",
        ],
    );
    check(&idle(), (60, 20), &["[producers] ─", "IDLE at producers: no records come in", "nothing waits"]);
}

#[test]
fn what_is_not_known_is_unknown_and_what_is_not_looked_at_is_off() {
    check(
        &with(healthy(), "/monitor", Value::Null),
        (80, 24),
        &["stream          off: monitor.interval is 0s"],
    );
    let unknown = json!({ "interval_ms": 60_000, "status": null, "readings": { "incoming_bytes": null } });
    let unknown = with(healthy(), "/monitor", unknown);
    check(
        &unknown,
        (80, 24),
        &["stream          unknown", "quotas used     unknown", "8 in flight       unknown"],
    );
    for size in SIZES {
        check(
            &json!({}),
            size,
            &["stream unknown, unknown", "where records are stuck is unknown", "unknown held"],
        );
    }
}

#[test]
fn a_silent_daemon_is_told_of_and_its_last_figures_are_dim() {
    let (mut model, now) = model(&healthy());
    model.failed("Connection refused (os error 111)".to_owned());
    let later = now + Duration::from_secs(75);
    let screen = drawn(|frame| view::draw(frame, &model, PLAIN, later), 80, 24);
    let lines = lines(&screen);
    assert!(lines[0].contains("NO ANSWER"), "{lines:#?}");
    assert!(lines[3].contains("NO ANSWER for 1 min 15 s: Connection refused"), "{lines:#?}");
    let dim = |line: u16| screen[(1, line)].modifier.contains(Modifier::DIM);
    let figures = lines.iter().position(|line| line.contains("ledger")).unwrap();
    assert!(dim(1) && dim(u16::try_from(figures).unwrap()) && !dim(3));
}

#[test]
fn without_colours_every_word_is_there_and_no_colour() {
    for status in [healthy(), idle(), in_trouble()] {
        let (model, now) = model(&status);
        let coloured = Manner { theme: Theme { colour: true }, ..PLAIN };
        let [plain, coloured] =
            [PLAIN, coloured].map(|manner| drawn(|frame| view::draw(frame, &model, manner, now), 130, 40));
        assert_eq!(lines(&plain), lines(&coloured));
        assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        let sixteen = |colour: Color| !matches!(colour, Color::Rgb(..) | Color::Indexed(_));
        assert!(coloured.content.iter().any(|cell| cell.fg != Color::Reset));
        assert!(coloured.content.iter().all(|cell| sixteen(cell.fg) && sixteen(cell.bg)));
    }
}

#[test]
fn plain_text_has_every_figure() {
    let (model, now) = model(&in_trouble());
    let text = view::text(&model, now);
    for expected in [
        "hydrant 0.1.0, stream app-logs, NOT READY, running for 2 h 3 min, tcp:127.0.0.1:9464\n",
        "\nWARNING at Firehose: ThrottlingException for 42 s",
        "\n  delivered       12,000 · 1.1 MiB\n",
        "\n  sent again      ThrottlingException 4,321\n                  InternalFailure 4\n",
        "\n  destination     oldest underway 1 min 1 s · success unknown\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

fn press(code: KeyCode, modifiers: KeyModifiers) -> Event {
    Event::Input(Input::Key(KeyEvent::new(code, modifiers)))
}

#[test]
fn q_escape_control_c_and_a_signal_end_the_session_and_other_keys_do_not() {
    let (model, now) = model(&healthy());
    let ends = |event| Session::new(model.clone(), PLAIN.theme).apply(event, now).is_break();
    let plain = |code| press(code, KeyModifiers::NONE);
    assert!(ends(plain(KeyCode::Char('q'))) && ends(plain(KeyCode::Esc)) && ends(Event::Ended));
    assert!(ends(press(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!ends(plain(KeyCode::Char('c'))) && !ends(plain(KeyCode::Enter)) && !ends(Event::Tick));
    assert!(!ends(Event::Input(Input::Resize(10, 10))));
}

#[test]
fn a_pause_holds_the_screen_still_and_loses_nothing() {
    let (model, now) = model(&healthy());
    let mut session = Session::new(model, PLAIN.theme);
    let shown = |session: &Session, after: u64| {
        let now = now + Duration::from_secs(after);
        lines(&drawn(|frame| session.draw(frame, now), 80, 24)).join("\n")
    };
    let apply = |session: &mut Session, event| assert!(session.apply(event, now).is_continue());
    let later = || {
        let status = with(healthy(), "/ledger/delivered/records", json!(12_345));
        Look { status: read(status.to_string().as_bytes()).unwrap(), history: None }
    };
    apply(&mut session, press(KeyCode::Char('p'), KeyModifiers::NONE));
    let paused = shown(&session, 0);
    assert!(paused.starts_with(" PAUSED "), "{paused}");
    apply(&mut session, Event::Looked(Ok(Box::new(later()))));
    apply(&mut session, Event::Looked(Err("gone".to_owned())));
    assert_eq!(shown(&session, 9), paused);
    apply(&mut session, press(KeyCode::Char('p'), KeyModifiers::NONE));
    let resumed = shown(&session, 9);
    assert!(
        resumed.contains("NO ANSWER for 9 s: gone") && resumed.contains("delivered       12,345"),
        "{resumed}"
    );
    apply(&mut session, press(KeyCode::Char('?'), KeyModifiers::NONE));
    assert!(shown(&session, 9).contains("billed: Firehose rounds each record up"));
}

/// Every path to a value in `document`.
fn paths(document: &Value, path: &str, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    let members: Vec<(String, &Value)> = match document {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(values) => {
            values.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (name, value) in members {
        self::paths(value, &format!("{path}/{name}"), paths);
    }
}

fn odd() -> impl Strategy<Value = Value> {
    let odd = [
        json!(null),
        json!(0),
        json!(u64::MAX),
        json!(-1),
        json!(-0.0),
        json!(1e308),
        json!(5e-324),
        json!(""),
        json!("\u{1b}[2J\r\n\0"),
        json!("界".repeat(300)),
        json!("e\u{301}".repeat(300)),
        json!([]),
        json!({}),
        json!({ "": u64::MAX, "\u{7}": u64::MAX, "a": 1, "b": 1, "c": 1, "d": 1 }),
        json!({ "": { "records": u64::MAX } , "x y": { "records": 1, "bytes": null } }),
        json!({ "PutRecord": { "failed\n": u64::MAX } }),
    ];
    prop::sample::select(odd.to_vec())
}

proptest! {
    /// Of each document most members are as they should be, so that many are understood.
    #[test]
    fn any_document_is_drawn_at_any_size(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd()), 0..4),
        rows in prop::collection::vec(prop::collection::vec(prop::option::of(prop_oneof![0..100_000_u64, Just(u64::MAX)]), 0..5), 0..40),
        (width, height) in (1..=200_u16, 1..=80_u16),
        (help, colour, away) in any::<(bool, bool, bool)>(),
    ) {
        let mut document = in_trouble();
        document["streams"] = several()["streams"].take();
        for (index, value) in changes {
            let mut all = Vec::new();
            paths(&document, "", &mut all);
            document = with(document, &index.get(&all[..]).clone(), value);
        }
        if let Ok(status) = read(document.to_string().as_bytes()) {
            let now = crate::telemetry::now();
            let history = History { rows, ..history() };
            let look = Look { status, history: Some(history) };
            let mut model = Model::new("unix:/a".to_owned(), Duration::MAX, look, now);
            if away {
                model.failed("界".repeat(100));
            }
            let manner = Manner { theme: Theme { colour }, paused: help, help };
            drop(drawn(|frame| view::draw(frame, &model, manner, now), width, height));
            prop_assert!(!view::text(&model, now).chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
