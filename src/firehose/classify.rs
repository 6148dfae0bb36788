//! From the SDK's errors to ours, once.
//!
//! What decides is typed: the SDK's variant, the service's error code, the HTTP status, the error
//! types in the chain of causes. What an error says in words never does.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{DispatchFailure, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use hyper_util::client::legacy;

use super::{Class, PutError};

/// Every code that we know, with what it asks for.
///
/// Sources: the modelled errors of `PutRecord` and `PutRecordBatch`
/// (<https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>), the
/// errors common to all AWS services
/// (<https://docs.aws.amazon.com/firehose/latest/APIReference/CommonErrors.html>), and
/// `THROTTLING_ERRORS` and `TRANSIENT_ERRORS` in aws-runtime's `retries/classifiers.rs`.
const CODES: &[(&str, Class)] = &[
    ("ServiceUnavailableException", Class::Throttled),
    ("ServiceUnavailable", Class::Throttled),
    ("Throttling", Class::Throttled),
    ("ThrottlingException", Class::Throttled),
    ("ThrottledException", Class::Throttled),
    ("RequestThrottled", Class::Throttled),
    ("RequestThrottledException", Class::Throttled),
    ("RequestLimitExceeded", Class::Throttled),
    ("TooManyRequestsException", Class::Throttled),
    ("LimitExceededException", Class::Throttled),
    ("ProvisionedThroughputExceededException", Class::Throttled),
    ("BandwidthLimitExceeded", Class::Throttled),
    ("SlowDown", Class::Throttled),
    ("InternalFailure", Class::Transient),
    ("InternalFailureException", Class::Transient),
    ("InternalError", Class::Transient),
    ("InternalServerError", Class::Transient),
    ("InternalServerException", Class::Transient),
    ("RequestTimeout", Class::Transient),
    ("RequestTimeoutException", Class::Transient),
    ("ExpiredToken", Class::Transient),
    ("ExpiredTokenException", Class::Transient),
    ("RequestExpired", Class::Transient),
    ("RequestTimeTooSkewed", Class::Transient),
    ("InvalidSignatureException", Class::Transient),
    ("SignatureDoesNotMatch", Class::Transient),
    ("ResourceNotFoundException", Class::Permanent),
    ("AccessDenied", Class::Permanent),
    ("AccessDeniedException", Class::Permanent),
    ("UnauthorizedOperation", Class::Permanent),
    ("NotAuthorized", Class::Permanent),
    ("UnrecognizedClientException", Class::Permanent),
    ("InvalidClientTokenId", Class::Permanent),
    ("MissingAuthenticationToken", Class::Permanent),
    ("MissingAuthenticationTokenException", Class::Permanent),
    ("IncompleteSignature", Class::Permanent),
    ("IncompleteSignatureException", Class::Permanent),
    ("OptInRequired", Class::Permanent),
    ("InvalidKMSResourceException", Class::Permanent),
    ("KMSAccessDeniedException", Class::Permanent),
    ("KMSDisabledException", Class::Permanent),
    ("KMSInvalidStateException", Class::Permanent),
    ("KMSNotFoundException", Class::Permanent),
    ("KMSOptInRequired", Class::Permanent),
    ("InvalidSourceException", Class::Permanent),
    ("UnknownOperationException", Class::Permanent),
    ("InvalidArgumentException", Class::Refused),
    ("ValidationException", Class::Refused),
    ("ValidationError", Class::Refused),
    ("SerializationException", Class::Refused),
    ("RequestEntityTooLarge", Class::Refused),
    ("RequestEntityTooLargeException", Class::Refused),
    ("RequestTooLargeException", Class::Refused),
];

/// Codes that say that the credentials, not the right to use them, were found wanting: others may
/// do better.
const CREDENTIAL_CODES: &[&str] = &[
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
];

/// Longest code of the service that is passed on; a longer one is no code.
const MAX_CODE_CHARS: usize = 64;

/// Whom a call was made to, for sentences about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// The service's name in policies.
    pub(super) service: &'static str,
    /// The API's name for the call.
    pub(super) operation: &'static str,
    /// The delivery stream.
    pub(super) stream: &'a str,
    /// Where requests are signed for.
    pub(super) region: &'a str,
    /// Scheme and authority that requests go to, once one was tried.
    pub(super) endpoint: Option<&'a str>,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint {
            Some(endpoint) => f.write_str(endpoint),
            None => write!(f, "Firehose in {}", self.region),
        }
    }
}

fn lookup(code: &str) -> Option<(&'static str, Class)> {
    CODES.iter().copied().find(|(known, _)| *known == code)
}

/// The service's `code`, without an allocation where it is a known one; `unknown` for what does
/// not look like a code.
pub(super) fn known_code(code: &str) -> Cow<'static, str> {
    let plausible = |code: &str| {
        code.len() <= MAX_CODE_CHARS && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    match lookup(code) {
        Some((known, _)) => Cow::Borrowed(known),
        None if plausible(code) => Cow::Owned(code.to_owned()),
        None => Cow::Borrowed("unknown"),
    }
}

/// The class of an entry's error `code`.
pub(super) fn entry_class(code: &str) -> Class {
    match lookup(code) {
        Some((_, Class::Throttled)) => Class::Throttled,
        _ => Class::Transient,
    }
}

/// Whether an error of this code may go away with other credentials.
pub(super) fn blames_credentials(code: &str) -> bool {
    CREDENTIAL_CODES.contains(&code)
}

/// The failure of a whole call.
pub(super) fn put_error<E>(error: &SdkError<E, HttpResponse>, target: Target<'_>) -> PutError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            service_error(context.err().code(), context.err().message(), status, target)
        }
        SdkError::ResponseError(context) => {
            let status = context.raw().status();
            if status.is_success() {
                unreadable(target)
            } else {
                service_error(None, None, status.as_u16(), target)
            }
        }
        SdkError::TimeoutError(_) => timeout(true, target),
        SdkError::DispatchFailure(failure) => dispatch_error(failure, target),
        // `SdkError` is not exhaustive; what is left never became a request.
        SdkError::ConstructionFailure(_) | _ => not_sent(error, target),
    }
}

// snippet-start:[firehose.rust.hydrant.classify]
pub(super) fn service_error(
    code: Option<&str>,
    said: Option<&str>,
    status: u16,
    target: Target<'_>,
) -> PutError {
    // Success without an answer to the question: something in front of the service said it.
    if code.is_none() && (200..300).contains(&status) {
        return unreadable(target);
    }
    let known = code.and_then(lookup);
    let class = match (known, status) {
        (_, 413) => Class::Refused,
        (Some((_, class)), _) => class,
        (None, 429) => Class::Throttled,
        (None, 408 | 500..=599) => Class::Transient,
        // Redirects, and refusals from something that is not Firehose: records are no reason.
        (None, _) => Class::Permanent,
    };
    let ambiguous = status >= 500 && !matches!(known, Some((_, Class::Throttled)));
    let code = match code {
        Some(code) => known_code(code),
        None => status_code(status),
    };
    PutError { class, message: sentence(&code, said, status, class, target), code, ambiguous }
}
// snippet-end:[firehose.rust.hydrant.classify]

/// A label for an answer that carries no error code.
fn status_code(status: u16) -> Cow<'static, str> {
    match status {
        413 => Cow::Borrowed("RequestEntityTooLarge"),
        429 => Cow::Borrowed("TooManyRequestsException"),
        _ => Cow::Owned(format!("http_{status}")),
    }
}

fn sentence(code: &str, said: Option<&str>, status: u16, class: Class, target: Target<'_>) -> String {
    let Target { service, operation, stream, region, .. } = target;
    // The service's own words name the principal, key or source at fault. They are left out for
    // refusals, which may quote what was sent.
    let said =
        said.filter(|_| class == Class::Permanent).map(|said| format!(" ({said})")).unwrap_or_default();
    match code {
        "ResourceNotFoundException" => format!(
            "delivery stream `{stream}` was not found in {region}; create it, or correct \
             `delivery_stream_name` or the region"
        ),
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized"
            if service != "firehose" =>
        {
            format!(
                "the credentials do not allow {service}:{operation} in {region}{said}; allow it in the policy of \
                 their user or role"
            )
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized" => format!(
            "the credentials do not allow firehose:{operation} on delivery stream `{stream}` in {region}{said}; \
             allow it in the policy of their user or role"
        ),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException" => {
            format!("AWS does not know the credentials used in {region}{said}; correct them, or the region")
        }
        "ExpiredToken" | "ExpiredTokenException" => {
            "the credentials expired; new ones are fetched, check their source if this repeats".to_owned()
        }
        "RequestExpired" | "RequestTimeTooSkewed" | "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            format!(
                "{target} did not accept the signature of a {operation}; check this host's clock, then the secret key"
            )
        }
        "OptInRequired" => {
            format!(
                "the account is not signed up for Firehose in {region}{said}; enable the service or region"
            )
        }
        "InvalidSourceException" => format!(
            "delivery stream `{stream}` takes only records from CloudWatch Logs{said}; switch its decompression off, \
             or use another stream"
        ),
        "InvalidKMSResourceException"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired" => format!(
            "the KMS key that encrypts delivery stream `{stream}` cannot be used{said}; enable the key and its grant"
        ),
        _ => match class {
            Class::Throttled if service != "firehose" => {
                format!("{target} takes no more {operation} calls in {region} for now ({code})")
            }
            Class::Refused if service != "firehose" => {
                format!("{target} refused a {operation} ({code}, status {status})")
            }
            Class::Throttled => format!("delivery stream `{stream}` was throttled in {region} ({code})"),
            Class::Transient => format!("{target} answered {operation} with status {status} ({code})"),
            Class::Refused => {
                format!(
                    "{target} refused a {operation} to delivery stream `{stream}` ({code}, status {status})"
                )
            }
            Class::Permanent => format!(
                "{target} answered {operation} with status {status} ({code}){said}; check that this is an AWS \
                 endpoint and what stands in front of it"
            ),
        },
    }
}

pub(super) fn unreadable(target: Target<'_>) -> PutError {
    PutError {
        class: Class::Transient,
        code: Cow::Borrowed("response"),
        message: format!("the answer of {target} to {} could not be read", target.operation),
        ambiguous: true,
    }
}

/// No answer in time; `sent` says whether the request may have been on its way.
pub(super) fn timeout(sent: bool, target: Target<'_>) -> PutError {
    let message = if sent {
        format!("{target} did not answer {} in time", target.operation)
    } else {
        format!("{target} could not be reached in time; check the network, security groups and proxy")
    };
    PutError { class: Class::Transient, code: Cow::Borrowed("timeout"), message, ambiguous: sent }
}

fn dispatch_error(failure: &DispatchFailure, target: Target<'_>) -> PutError {
    let Some(connector) = failure.as_connector_error() else {
        return not_sent(&NotSent, target);
    };
    let connecting = find::<legacy::Error>(connector).is_some_and(legacy::Error::is_connect);
    let transient = |code, message, ambiguous| PutError {
        class: Class::Transient,
        code: Cow::Borrowed(code),
        message,
        ambiguous,
    };
    if let Some(error) = find::<CredentialsError>(connector) {
        return credentials_error(error);
    }
    if find::<ResolveDnsError>(connector).is_some() {
        let message =
            format!("the host name of {target} could not be resolved; check the region, endpoint and DNS");
        return transient("dns", message, false);
    }
    if failure.is_timeout() {
        return timeout(!connecting, target);
    }
    if let Some(error) = find::<rustls::Error>(connector) {
        let message =
            format!("the TLS connection to {target} failed ({error}); check the certificates and proxy");
        return transient("tls", message, !connecting);
    }
    let io = find::<std::io::Error>(connector);
    let started = io.is_some()
        || find::<legacy::Error>(connector).is_some()
        || find::<hyper::Error>(connector).is_some();
    if failure.is_user() || !started {
        return not_sent(connector, target);
    }
    let why = io.map(|error| format!(" ({})", error.kind())).unwrap_or_default();
    if connecting {
        let message =
            format!("{target} could not be connected to{why}; check the network, endpoint and proxy");
        transient("connection", message, false)
    } else {
        let message =
            format!("the connection to {target} broke before {} was answered{why}", target.operation);
        transient("connection", message, true)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no request was made")]
struct NotSent;

/// A request that could not be made from the settings there are.
fn not_sent(error: &(dyn Error + 'static), target: Target<'_>) -> PutError {
    let cause = chain(error).last().map(ToString::to_string).unwrap_or_default();
    PutError {
        class: Class::Permanent,
        code: Cow::Borrowed("request"),
        message: format!(
            "no {} could be made ({cause}); check the endpoint and the AWS settings",
            target.operation
        ),
        ambiguous: false,
    }
}

/// Credentials that could not be had: for good where no source has any, for now where one failed.
pub(super) fn credentials_error(error: &CredentialsError) -> PutError {
    let cause = chain(error).last().map(ToString::to_string).unwrap_or_default();
    let (class, message) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            Class::Permanent,
            "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose an AWS_PROFILE, \
             or give this host, task or pod a role"
                .to_owned(),
        ),
        CredentialsError::InvalidConfiguration(_) => (
            Class::Permanent,
            format!("the AWS credentials are wrongly configured ({cause}); correct the profile or environment"),
        ),
        CredentialsError::ProviderTimedOut(_)
        | CredentialsError::ProviderError(_)
        | CredentialsError::Unhandled(_)
        | _ => (
            Class::Transient,
            format!("AWS credentials could not be fetched ({cause}); their source is asked again"),
        ),
    };
    PutError { class, code: Cow::Borrowed("credentials"), message, ambiguous: false }
}

/// `error` and its causes, those inside an `io::Error` too, which its `source` skips.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as _),
        None => error.source(),
    })
}

/// What is at the root of `error`, in its own words.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;

    use super::*;

    const TARGET: Target<'_> = Target {
        service: "firehose",
        operation: "PutRecordBatch",
        stream: "app-logs",
        region: "eu-west-1",
        endpoint: None,
    };

    // R-E5
    #[test]
    fn every_known_code_keeps_its_class_whatever_the_status() {
        for &(code, class) in CODES {
            for status in [400, 403, 500, 503] {
                let error = service_error(Some(code), None, status, TARGET);
                let ambiguous = status >= 500 && class != Class::Throttled;
                assert_eq!((error.class, error.ambiguous), (class, ambiguous), "{code} with {status}");
                assert!(matches!(error.code, Cow::Borrowed(known) if known == code), "{code}");
            }
        }
    }

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<_> = CODES.iter().map(|(code, _)| code).collect();
        codes.sort_unstable();
        assert!(codes.is_sorted_by(|a, b| a < b));
        assert!(CREDENTIAL_CODES.iter().all(|code| lookup(code).is_some()));
    }

    // R-E5
    #[test]
    fn an_answer_without_a_known_code_is_judged_by_its_status() {
        let check = |code, status, class, ambiguous| {
            let error = service_error(code, None, status, TARGET);
            assert_eq!((error.class, error.ambiguous), (class, ambiguous), "{code:?} with {status}");
        };
        check(None, 503, Class::Transient, true);
        check(None, 500, Class::Transient, true);
        check(None, 502, Class::Transient, true);
        check(None, 504, Class::Transient, true);
        check(Some("BrandNewException"), 500, Class::Transient, true);
        check(Some("BrandNewException"), 400, Class::Permanent, false);
        check(None, 429, Class::Throttled, false);
        check(None, 408, Class::Transient, false);
        check(None, 413, Class::Refused, false);
        check(Some("BrandNewException"), 413, Class::Refused, false);
        check(None, 400, Class::Permanent, false);
        check(None, 403, Class::Permanent, false);
        check(None, 404, Class::Permanent, false);
        check(None, 407, Class::Permanent, false);
        check(None, 301, Class::Permanent, false);
    }

    // R-E5
    #[test]
    fn an_entry_is_throttled_or_transient_and_never_final() {
        let check = |code, expected| assert_eq!(entry_class(code), expected, "{code}");
        check("ServiceUnavailableException", Class::Throttled);
        check("ThrottlingException", Class::Throttled);
        check("InternalFailure", Class::Transient);
        check("AccessDeniedException", Class::Transient);
        check("BrandNewException", Class::Transient);
    }

    #[test]
    fn a_code_fit_for_a_label_is_short_and_plain() {
        let check = |code: &str, expected| assert_eq!(known_code(code), expected, "{code}");
        check("InternalFailure", "InternalFailure");
        check("BrandNewException", "BrandNewException");
        check("with spaces", "unknown");
        check("\n", "unknown");
        check(&"x".repeat(65), "unknown");
    }

    // R-E7
    #[test]
    fn a_sentence_says_what_to_do() {
        let check = |code, expected: &str| {
            let message = service_error(Some(code), Some("arn:aws:iam::1:user/u"), 400, TARGET).message;
            assert_eq!(message, expected);
        };
        check(
            "ResourceNotFoundException",
            "delivery stream `app-logs` was not found in eu-west-1; create it, or correct `delivery_stream_name` or \
             the region",
        );
        check(
            "AccessDeniedException",
            "the credentials do not allow firehose:PutRecordBatch on delivery stream `app-logs` in eu-west-1 \
             (arn:aws:iam::1:user/u); allow it in the policy of their user or role",
        );
        check(
            "ValidationException",
            "Firehose in eu-west-1 refused a PutRecordBatch to delivery stream `app-logs` (ValidationException, \
             status 400)",
        );
    }

    #[test]
    fn credentials_that_nobody_has_are_a_matter_for_a_human_and_a_failing_source_is_not() {
        let check = |error, class| assert_eq!(credentials_error(&error).class, class, "{error}");
        check(CredentialsError::not_loaded("no providers in chain provided credentials"), Class::Permanent);
        check(CredentialsError::invalid_configuration("a loop of roles"), Class::Permanent);
        check(CredentialsError::provider_error("503"), Class::Transient);
        check(CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)), Class::Transient);
        check(CredentialsError::unhandled("not UTF-8"), Class::Transient);
    }
}
