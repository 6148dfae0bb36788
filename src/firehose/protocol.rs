//! A client protocol of our own for `PutRecordBatch`: the body ready-made, the answer read no
//! further than it must be.
//!
//! It is set through the SDK's public hook, `Config::builder().protocol(..)`. Every other
//! operation, every error and every unusual answer goes to the protocol that the SDK would have
//! used itself; which of the two it is, the schema's shape name decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_runtime::auth::PayloadSigningOverride;
use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeSerializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::http::{Request, Response};
use aws_smithy_schema::codec::DynCodec;
use aws_smithy_schema::protocol::ClientProtocolInner;
use aws_smithy_schema::serde::{SerdeError, SerializableStruct, ShapeDeserializer};
use aws_smithy_schema::{Schema, ShapeId};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use aws_smithy_types::endpoint::Endpoint;
use aws_smithy_types::error::metadata;
use bytes::Bytes;

use super::Put;
use super::answer::all_delivered;
use super::bodies::{Bodies, Place};
use super::body::{self, Pieces};
use super::pairs::Pairs;

const INPUT: &str = "PutRecordBatchInput";
const OUTPUT: &str = "PutRecordBatchOutput";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "Firehose_20150804.PutRecordBatch";

/// A larger body takes a place among [`Bodies`].
const WHOLE_BYTES: usize = 512 * 1024;
/// A body that is as large may be hashed with another ([`Pairs`]); that saves 15 µs or more.
const PAIRED_BYTES: usize = 64 * 1024;

/// A ready-made body, put into the configuration of one call; it is an interceptor because that
/// is how a value gets there.
#[derive(Debug, Clone)]
pub(super) struct Prebuilt {
    body: Prepared,
    /// The digest for the signature, where the SDK does not make it: it hashes whole bodies alone, one by one.
    sha256: Option<String>,
    records: usize,
    delivered: Arc<AtomicBool>,
    /// Given up after the body.
    _place: Option<Arc<Place>>,
}

#[derive(Debug, Clone)]
enum Prepared {
    Whole(Bytes),
    /// What is encoded while it is sent, and the length of that.
    Pieces {
        put: Put,
        length: usize,
    },
}

impl Prebuilt {
    /// The body of `put`'s request, which the SDK has to hash.
    pub(super) fn new(put: &Put, bodies: &Arc<Bodies>) -> Self {
        Self::with_small_up_to(put, bodies, WHOLE_BYTES)
    }

    /// The same, hashed with another one of `pairs` if it is large enough.
    pub(super) async fn hashed(mut self, pairs: &Pairs) -> Self {
        if let Prepared::Whole(body) = &self.body
            && body.len() >= PAIRED_BYTES
        {
            self.sha256 = Some(pairs.digest(body).await);
        }
        self
    }

    fn with_small_up_to(put: &Put, bodies: &Arc<Bodies>, bytes: usize) -> Self {
        let length = body::encoded_len(put);
        let place = (length > bytes).then(|| bodies.enter());
        let (body, sha256) = match &place {
            None => (Prepared::Whole(body::encode(put)), None),
            Some(place) if place.is_alone() => {
                (Prepared::Pieces { put: put.clone(), length }, Some(Pieces::digest(put.clone())))
            }
            Some(place) => {
                (Prepared::Whole(place.whole(length, |memory| body::encode_into(put, memory))), None)
            }
        };
        Self {
            body,
            sha256,
            records: put.entry_count(),
            delivered: Arc::default(),
            _place: place.map(Arc::new),
        }
    }

    /// Whether the call was answered by exactly "every record was delivered". The output that
    /// the SDK then returns is empty and says nothing; otherwise the output is the answer.
    pub(super) fn delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed)
    }
}

impl Storable for Prebuilt {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Prebuilt {
    fn name(&self) -> &'static str {
        "Prebuilt"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.clone());
        if let Some(sha256) = &self.sha256 {
            config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(sha256.clone()));
        }
        Ok(())
    }
}

/// awsJson1.1, with a shortcut for `PutRecordBatch` calls that carry a [`Prebuilt`].
#[derive(Debug)]
pub(super) struct Protocol {
    stock: AwsJsonRpcProtocol,
}

impl Protocol {
    pub(super) fn new() -> Self {
        // What the SDK's own client makes for this service (`config.rs` of aws-sdk-firehose).
        Self { stock: AwsJsonRpcProtocol::aws_json_1_1().with_default_namespace("com.amazonaws.firehose") }
    }
}

fn request(body: &Prepared) -> Result<Request, SerdeError> {
    let (length, body) = match body {
        Prepared::Whole(body) => (body.len(), SdkBody::from(body.clone())),
        Prepared::Pieces { put, length } => (*length, SdkBody::from_body_1_x(Pieces::new(put.clone()))),
    };
    let mut request = Request::new(body);
    request.set_method("POST").map_err(|error| SerdeError::custom(error.to_string()))?;
    request.set_uri("/").map_err(|error| SerdeError::custom(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert("Content-Type", CONTENT_TYPE);
    headers.insert("Content-Length", length.to_string());
    headers.insert("X-Amz-Target", TARGET);
    Ok(request)
}

impl ClientProtocolInner for Protocol {
    type Request = Request;
    type Response = Response;

    fn protocol_id(&self) -> &ShapeId<'static> {
        self.stock.protocol_id()
    }

    fn serialize_request(
        &self,
        input: &dyn SerializableStruct,
        schema: &Schema<'_>,
        endpoint: &str,
        config: &ConfigBag,
    ) -> Result<Request, SerdeError> {
        match config.load::<Prebuilt>() {
            Some(prebuilt) if schema.shape_id().shape_name() == INPUT => request(&prebuilt.body),
            _ => self.stock.serialize_request(input, schema, endpoint, config),
        }
    }

    fn deserialize_response<'a>(
        &self,
        response: &'a Response,
        schema: &Schema<'_>,
        config: &'a ConfigBag,
    ) -> Result<Box<dyn ShapeDeserializer + 'a>, SerdeError> {
        if schema.shape_id().shape_name() == OUTPUT
            && response.status().is_success()
            && let Some(prebuilt) = config.load::<Prebuilt>()
            && let Some(codec) = self.stock.payload_codec()
            && response.body().bytes().is_some_and(|answer| all_delivered(answer, prebuilt.records))
        {
            prebuilt.delivered.store(true, Ordering::Relaxed);
            return Ok(codec.create_deserializer(b"{}"));
        }
        self.stock.deserialize_response(response, schema, config)
    }

    fn parse_error_metadata(
        &self,
        response: &Response,
        config: &ConfigBag,
    ) -> Result<metadata::Builder, SerdeError> {
        self.stock.parse_error_metadata(response, config)
    }

    fn deserialize_error_response<'a>(
        &self,
        response: &'a Response,
        config: &'a ConfigBag,
    ) -> Result<Box<dyn ShapeDeserializer + 'a>, SerdeError> {
        self.stock.deserialize_error_response(response, config)
    }

    fn update_endpoint(
        &self,
        request: &mut Request,
        endpoint: &Endpoint,
        config: &ConfigBag,
    ) -> Result<(), SerdeError> {
        self.stock.update_endpoint(request, endpoint, config)
    }

    fn payload_codec(&self) -> Option<&dyn DynCodec> {
        self.stock.payload_codec()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_firehose::operation::put_record::PutRecordOutput;
    use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchInput, PutRecordBatchOutput};
    use aws_sdk_firehose::primitives::Blob;
    use aws_sdk_firehose::types::{PutRecordBatchResponseEntry, Record};
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::byte_stream::ByteStream;
    use aws_smithy_types::config_bag::Layer;
    use proptest::prelude::*;

    use super::*;
    use crate::firehose::Entry;
    use crate::firehose::{answer, sha256, testing};
    use crate::record::Span;

    fn config(prebuilt: Option<Prebuilt>) -> ConfigBag {
        let mut layer = Layer::new("test");
        if let Some(prebuilt) = prebuilt {
            layer.store_put(prebuilt);
        }
        ConfigBag::of_layers(vec![layer])
    }

    fn input(put: &Put) -> PutRecordBatchInput {
        let record = |data| Record::builder().data(Blob::new(data)).build().expect("data is set");
        let data = |entry| match entry {
            Entry::Record(data) => data.to_vec(),
            Entry::Packed(spans) => spans.iter().flat_map(Span::iter).flatten().copied().collect(),
        };
        let records = put.entries().map(data).map(record).collect();
        let input =
            PutRecordBatchInput::builder().delivery_stream_name(&*put.stream).set_records(Some(records));
        input.build().expect("all members are set")
    }

    /// What the SDK's protocol reads in a 200 of `answer`.
    fn parsed(answer: &str) -> Option<PutRecordBatchOutput> {
        let response = Response::new(StatusCode::try_from(200).expect("a status"), SdkBody::from(answer));
        let (bag, stock) = (config(None), Protocol::new().stock);
        let mut members = stock.deserialize_response(&response, PutRecordBatchOutput::SCHEMA, &bag).ok()?;
        PutRecordBatchOutput::deserialize(&mut *members).ok()
    }

    proptest! {
        // R-B3
        #[test]
        fn our_body_is_the_stock_body_byte_for_byte(stream in any::<String>(), put in testing::puts()) {
            let put = Put { stream: stream.into(), ..put };
            let input = input(&put);
            let send = |config| {
                let protocol = Protocol::new();
                let request = protocol.serialize_request(&input, PutRecordBatchInput::SCHEMA, "/", &config);
                request.expect("the input can be sent")
            };
            let stock = send(config(None));
            let fast = send(config(Some(Prebuilt::new(&put, &Arc::default()))));
            prop_assert_eq!(stock.body().bytes(), fast.body().bytes());
            for header in ["Content-Type", "Content-Length"] {
                prop_assert_eq!(stock.headers().get(header), fast.headers().get(header));
            }
        }

        #[test]
        fn what_is_taken_at_its_word_the_full_parser_reads_the_same(
            (text, records) in answers(),
            off_by in 0_usize..2,
        ) {
            let records = records + off_by;
            let full = parsed(&text).map(|output| answer::verdicts(&output, records));
            let fine = matches!(&full, Some(Ok(answer)) if answer.failed.is_empty());
            prop_assert!(!answer::all_delivered(text.as_bytes(), records) || fine, "{} {:?}", text, full);
        }

        #[test]
        fn plain_good_news_takes_the_short_way(ids in prop::collection::vec("[A-Za-z0-9+/=]{1,224}", 1..20)) {
            let entries: Vec<_> = ids.iter().map(|id| format!(r#"{{"RecordId":"{id}"}}"#)).collect();
            let text = format!(r#"{{"FailedPutCount":0,"Encrypted":true,"RequestResponses":[{}]}}"#, entries.join(","));
            prop_assert!(answer::all_delivered(text.as_bytes(), ids.len()));
        }
    }

    // R-B3
    #[tokio::test]
    async fn a_body_that_is_sent_in_pieces_is_the_same_and_its_length_and_digest_are_said() {
        let put = testing::put("s", vec![testing::span(&[vec![b'a'; 100_000], vec![b'b'; 200_001]])]);
        let bodies = Arc::default();
        let prebuilt = Prebuilt::with_small_up_to(&put, &bodies, 1000);
        let beside = Prebuilt::with_small_up_to(&put, &bodies, 1000);
        let request = request(&prebuilt.body).expect("a request");
        let whole = body::encode(&put);
        assert_eq!(request.headers().get("Content-Length"), Some(&*whole.len().to_string()));
        assert!(request.body().bytes().is_none());
        assert_eq!(request.body().content_length(), u64::try_from(whole.len()).ok());
        let sent = ByteStream::new(request.into_body()).collect().await.expect("nothing fails").into_bytes();
        assert_eq!(sent, whole);
        assert!(matches!(&beside.body, Prepared::Whole(body) if *body == whole), "another is under way");
        assert_eq!(prebuilt.sha256, Some(sha256::digest(&whole)));
    }

    #[test]
    fn the_short_way_is_for_answers_to_ready_made_batches_alone() {
        let check = |schema, status, text: &str, expected| {
            let prebuilt = Prebuilt::new(&testing::put("s", vec![testing::span(&["a"])]), &Arc::default());
            let response =
                Response::new(StatusCode::try_from(status).expect("a status"), SdkBody::from(text));
            let bag = config(Some(prebuilt.clone()));
            Protocol::new().deserialize_response(&response, schema, &bag).expect("a deserializer");
            assert_eq!(prebuilt.delivered(), expected, "{status} {text}");
        };
        let good = r#"{"FailedPutCount":0,"RequestResponses":[{"RecordId":"a"}]}"#;
        check(PutRecordBatchOutput::SCHEMA, 200, good, true);
        check(PutRecordBatchOutput::SCHEMA, 200, "{}", false);
        check(PutRecordBatchOutput::SCHEMA, 503, good, false);
        check(PutRecordOutput::SCHEMA, 200, good, false);
    }

    /// Answers, good, bad and odd, each with the number of its entries.
    fn answers() -> impl Strategy<Value = (String, usize)> {
        let space = prop::sample::select(vec!["", "", "", " ", "\n\t", "\u{c}"]);
        let string = prop::sample::select(vec![
            "id",
            "id",
            "id",
            "",
            "\\u0041",
            "\u{e9}",
            "\\\"RecordId\\\"",
            "\u{1}",
        ]);
        let name = prop::sample::select(vec![
            "RecordId",
            "RecordId",
            "RecordId",
            "RecordId",
            "RecordId",
            "ErrorCode",
            "Error\\u0043ode",
            "Other",
        ]);
        let value = (string, 0..20).prop_map(|(string, odd): (&str, _)| match odd {
            0 => "null".to_owned(),
            1 => "7".to_owned(),
            _ => format!("\"{string}\""),
        });
        let member = (name, space.clone(), value)
            .prop_map(|(name, space, value)| format!("\"{name}\"{space}:{value}"));
        let members = prop_oneof![8 => prop::collection::vec(member.clone(), 1), 1 => prop::collection::vec(member, 0..3)];
        let entry = members.prop_map(|members| format!("{{{}}}", members.join(",")));
        let entries = prop::collection::vec(entry, 0..4);
        let count = prop::sample::select(vec!["0", "0", "0", "0", "1", "00", "0.0", "null", "-1", "\"0\""]);
        let extra = prop::sample::select(vec![
            "",
            "",
            "",
            ",\"Encrypted\":false",
            ",\"Encrypted\":0",
            ",\"More\":[]",
            ",",
        ]);
        let end = prop::sample::select(vec!["", "", "", "\n", " x", "}"]);
        (entries, count, extra, end, space).prop_map(|(entries, count, extra, end, space)| {
            let list = entries.join(&format!("{space},"));
            let text =
                format!("{{\"FailedPutCount\":{count},{space}\"RequestResponses\":[{list}]{extra}}}{end}");
            (text, entries.len())
        })
    }

    // R-B4
    #[test]
    fn an_answer_is_believed_only_where_it_agrees_with_itself_and_the_request() {
        let check =
            |failed_put_count, entries: &[(Option<&str>, Option<&str>)], expected: Option<&[usize]>| {
                let entry = |(id, code): &(Option<&str>, Option<&str>)| {
                    let entry = PutRecordBatchResponseEntry::builder();
                    entry.set_record_id(id.map(Into::into)).set_error_code(code.map(Into::into)).build()
                };
                let output = PutRecordBatchOutput::builder().failed_put_count(failed_put_count);
                let output = output.set_request_responses(Some(entries.iter().map(entry).collect()));
                let answer = answer::verdicts(&output.build().expect("all members are set"), 2);
                let failed =
                    answer.map(|answer| answer.failed.iter().map(|entry| entry.index).collect::<Vec<_>>());
                let failed = failed.map_err(|error| assert!(error.ambiguous && error.code == "response"));
                assert_eq!(failed.ok().as_deref(), expected, "{failed_put_count} of {entries:?}");
            };
        let (ok, failed) = ((Some("a"), None), (None, Some("InternalFailure")));
        check(0, &[ok, ok], Some(&[]));
        check(1, &[ok, failed], Some(&[1]));
        check(2, &[failed, failed], Some(&[0, 1]));
        check(1, &[(Some("a"), Some("InternalFailure")), ok], Some(&[0]));
        check(0, &[ok, failed], None);
        check(1, &[ok, ok], None);
        check(-1, &[ok, ok], None);
        check(0, &[ok], None);
        check(0, &[ok, ok, ok], None);
        check(0, &[], None);
        check(0, &[ok, (None, None)], None);
        check(0, &[ok, (Some(""), None)], None);
    }
}
