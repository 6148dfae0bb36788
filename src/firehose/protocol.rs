//! A client protocol of our own for `PutRecordBatch`: the body ready-made, the answer read no
//! further than it must be.
//!
//! It is set through the SDK's public hook, `Config::builder().protocol(..)`. Every other
//! operation, every error and every unusual answer goes to the protocol that the SDK would have
//! used itself; which of the two it is, the schema's shape name decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

use super::answer::all_delivered;
use super::body;
use crate::record::Span;

const INPUT: &str = "PutRecordBatchInput";
const OUTPUT: &str = "PutRecordBatchOutput";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "Firehose_20150804.PutRecordBatch";

/// A ready-made body, put into the configuration of one call; it is an interceptor because that
/// is how a value gets there.
#[derive(Debug, Clone)]
pub(super) struct Prebuilt {
    body: Bytes,
    records: usize,
    delivered: Arc<AtomicBool>,
}

impl Prebuilt {
    /// The body that puts `spans` on `stream`.
    pub(super) fn new(stream: &str, spans: &[Span]) -> Self {
        let records = spans.iter().map(Span::records).sum();
        Self { body: body::encode(stream, spans), records, delivered: Arc::default() }
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

fn request(body: Bytes) -> Result<Request, SerdeError> {
    let length = body.len().to_string();
    let mut request = Request::new(SdkBody::from(body));
    request.set_method("POST").map_err(|error| SerdeError::custom(error.to_string()))?;
    request.set_uri("/").map_err(|error| SerdeError::custom(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert("Content-Type", CONTENT_TYPE);
    headers.insert("Content-Length", length);
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
            Some(prebuilt) if schema.shape_id().shape_name() == INPUT => request(prebuilt.body.clone()),
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
