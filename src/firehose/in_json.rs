//! CloudWatch in JSON, for what stands in for it.
//!
//! The SDK's client speaks CBOR, as of the three protocols in CloudWatch's API model AWS prefers.
//! Emulators know the JSON one at best (moto answers CBOR with 404). So a request to an endpoint
//! that is not AWS's own is rewritten before it is signed, and its answer is read here. Endpoint,
//! credentials, signature and connection stay the SDK's.
//!
//! Source: <https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html>

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use serde_json::Value;

use super::Datapoint;

/// Domains of AWS's own endpoints, in every partition and by PrivateLink.
///
/// Source: the endpoint rule sets of the SDK's crates.
const AWS: [&str; 9] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "api.aws",
    "api.amazonwebservices.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];

/// A request in JSON, to be sent instead of the SDK's where the endpoint is not AWS's own.
#[derive(Debug, Clone)]
pub(super) struct InJson {
    operation: &'static str,
    body: Bytes,
    sent: Arc<AtomicBool>,
    answer: Arc<Mutex<Option<Answer>>>,
}

/// What was answered to such a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body; null where it is empty or no JSON.
    pub(super) body: Value,
}

impl InJson {
    pub(super) fn new(operation: &'static str, body: &Value) -> Self {
        Self { operation, body: body.to_string().into(), sent: Arc::default(), answer: Arc::default() }
    }

    /// The answer, if the request was sent in JSON and answered.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn rewrite(&self, request: &mut HttpRequest) -> Result<(), BoxError> {
        let uri: http::Uri = request.uri().parse()?;
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        request.set_uri(http::Uri::from_parts(parts)?)?;
        let headers = request.headers_mut();
        for name in ["smithy-protocol", "accept", "x-amzn-query-mode"] {
            headers.remove(name);
        }
        headers.insert("content-type", "application/x-amz-json-1.0");
        headers.insert("content-length", self.body.len().to_string());
        // The name that the service has in its API model.
        headers.insert("x-amz-target", format!("GraniteServiceVersion20100801.{}", self.operation));
        *request.body_mut() = SdkBody::from(self.body.clone());
        Ok(())
    }
}

#[dyn_dispatch_hint]
impl Intercept for InJson {
    fn name(&self) -> &'static str {
        "InJson"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let foreign = !is_aws(request.uri());
        self.sent.store(foreign, Ordering::Relaxed);
        if foreign { self.rewrite(request) } else { Ok(()) }
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.sent.load(Ordering::Relaxed) {
            let response = context.response();
            let body = response.body().bytes().and_then(|body| serde_json::from_slice(body).ok());
            let answer = Answer { status: response.status().as_u16(), body: body.unwrap_or_default() };
            *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        }
        Ok(())
    }
}

fn is_aws(uri: &str) -> bool {
    let uri: http::Uri = uri.parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let below =
        |domain: &&str| host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    AWS.iter().any(below)
}

/// The code and message of an error.
pub(super) fn error(answer: &Value) -> Option<(&str, Option<&str>)> {
    let code = answer.get("__type")?.as_str()?;
    let code = code.rsplit('#').next().unwrap_or(code);
    let message = answer.get("message").or(answer.get("Message")).and_then(Value::as_str);
    Some((code, message))
}

/// The results in an answer to `GetMetricData`: ids with datapoints.
pub(super) fn results(answer: &Value) -> Option<Vec<(&str, Vec<Datapoint>)>> {
    let results = answer.get("MetricDataResults")?.as_array()?;
    let datapoints = |result: &Value| -> Option<Vec<Datapoint>> {
        let (times, values) = (result.get("Timestamps")?.as_array()?, result.get("Values")?.as_array()?);
        let point = |(at, value): (&Value, &Value)| {
            let since = Duration::try_from_secs_f64(at.as_f64()?).ok()?;
            Some(Datapoint { at: SystemTime::UNIX_EPOCH.checked_add(since)?, value: value.as_f64()? })
        };
        Some(times.iter().zip(values).filter_map(point).collect())
    };
    Some(
        results
            .iter()
            .filter_map(|result| Some((result.get("Id")?.as_str()?, datapoints(result)?)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // R-M10
    #[test]
    fn only_awss_own_endpoints_get_cbor() {
        let check = |uri, expected| assert_eq!(is_aws(uri), expected, "{uri}");
        check("https://monitoring.eu-west-1.amazonaws.com/", true);
        check("https://monitoring-fips.us-gov-west-1.api.aws/service/x", true);
        check("https://vpce-1.monitoring.eu-west-1.vpce.amazonaws.com", true);
        check("https://monitoring.cn-north-1.amazonaws.com.cn/", true);
        check("http://127.0.0.1:5000/", false);
        check("http://localhost:4566", false);
        check("https://amazonaws.com.example.org", false);
        check("https://notamazonaws.com", false);
    }

    #[test]
    fn answers_are_read_as_far_as_they_can_be() {
        let answer = json!({ "MetricDataResults": [
            { "Id": "q0", "Timestamps": [120.0, 60], "Values": [1.5, 2] },
            { "Id": "q1", "Timestamps": [], "Values": [] },
            { "Id": "q2", "Timestamps": ["later"], "Values": [1] },
            { "Timestamps": [1], "Values": [1] },
        ]});
        let point = |at, value| Datapoint { at: SystemTime::UNIX_EPOCH + Duration::from_secs(at), value };
        let expected = vec![("q0", vec![point(120, 1.5), point(60, 2.0)]), ("q1", vec![]), ("q2", vec![])];
        assert_eq!(results(&answer), Some(expected));
        assert_eq!(results(&json!({ "message": "no" })), None);
        let refused = json!({ "__type": "com.amazonaws.cloudwatch#AccessDenied", "Message": "why" });
        assert_eq!(error(&refused), Some(("AccessDenied", Some("why"))));
        assert_eq!(error(&json!([])), None);
    }
}
