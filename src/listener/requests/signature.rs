//! Whether a request is signed with a pair of keys, by AWS Signature Version 4: pure.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.
//! What is said of a signature that is wrong are the service's own words.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, header};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::config::SigningKey;
use crate::framing::firehose::ApiError;

/// How far the client's clock may be off.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// What must be signed, or it could be changed on the way.
const REQUIRED: [&str; 3] = ["host", "x-amz-date", "x-amz-target"];
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Most headers that are signed.
const MAX_SIGNED: usize = 64;

/// What a request says of its signature, found consistent, by the right pair of keys and of the right
/// time. Whether it is the signature is still to be seen.
#[derive(Debug)]
pub struct Claimed {
    signature: Vec<u8>,
    /// Everything that is signed but for the hash of the body.
    canonical: String,
    date: String,
    scope: String,
}

impl Claimed {
    /// Reads what a `POST` to `/` with `headers` says, of which `authority` is the host if no header
    /// names it.
    ///
    /// # Errors
    ///
    /// What the service says of a request that is not signed, or not so.
    pub fn read(
        headers: &HeaderMap,
        authority: &str,
        key: &SigningKey,
        now: SystemTime,
    ) -> Result<Self, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(authorization) = headers.get(header::AUTHORIZATION) else {
            let message = "Missing Authentication Token";
            return Err(ApiError::new(400, "MissingAuthenticationTokenException", message));
        };
        let incomplete = || {
            let message = "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters, \
                           by AWS4-HMAC-SHA256, and the request an 'X-Amz-Date' header";
            ApiError::new(400, "IncompleteSignatureException", message)
        };
        let parts = authorization.to_str().ok().and_then(|text| text.strip_prefix(ALGORITHM));
        let parts = parts.ok_or_else(incomplete)?;
        let part =
            |name: &str| parts.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        let (Some(credential), Some(names), Some(signature), Some(date)) =
            (part("Credential"), part("SignedHeaders"), part("Signature"), text("x-amz-date"))
        else {
            return Err(incomplete());
        };
        let (id, scope) = credential.split_once('/').ok_or_else(incomplete)?;
        if id != key.access_key_id {
            let message = "The security token included in the request is invalid.";
            return Err(ApiError::new(400, "UnrecognizedClientException", message));
        }
        let signed_at = instant(date).ok_or_else(incomplete)?;
        let skew = now.duration_since(signed_at).unwrap_or_else(|error| error.duration());
        if skew > SKEW {
            let now = humantime::format_rfc3339_seconds(now);
            return Err(invalid(&format!(
                "Signature expired or not yet current: {date} is not within 5 min. of {now}"
            )));
        }
        let mut terms = scope.split('/');
        let (day, _region) = (terms.next(), terms.next());
        let ends = terms.next() == Some("firehose")
            && terms.next() == Some("aws4_request")
            && terms.next().is_none();
        if day.is_none_or(|day| !date.starts_with(day) || day.len() != 8) || !ends {
            return Err(invalid(
                "Credential should be scoped to the day of 'X-Amz-Date' and to service: 'firehose'.",
            ));
        }
        let signed: Vec<&str> = names.split(';').collect();
        if signed.len() > MAX_SIGNED || REQUIRED.iter().any(|name| !signed.contains(name)) {
            return Err(invalid("'Host', 'X-Amz-Date' and 'X-Amz-Target' must be signed headers."));
        }
        let mut canonical = "POST\n/\n\n".to_owned();
        for name in signed {
            let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
            let values = values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "));
            let mut values = values.collect::<Vec<_>>().join(",");
            if values.is_empty() && name == "host" {
                authority.clone_into(&mut values);
            }
            // Writing into a string does not fail.
            writeln!(canonical, "{name}:{values}").unwrap_or_default();
        }
        write!(canonical, "\n{names}\n").unwrap_or_default();
        let signature = hex::decode(signature).map_err(|_| mismatch())?;
        Ok(Self { signature, canonical, date: date.to_owned(), scope: scope.to_owned() })
    }

    /// Checks that the request, with `body`, was signed with `key`.
    ///
    /// # Errors
    ///
    /// `InvalidSignatureException`.
    pub fn verify(&self, body: &[u8], key: &SigningKey) -> Result<(), ApiError> {
        let request = format!("{}{}", self.canonical, hex::encode(Sha256::digest(body)));
        let hash = hex::encode(Sha256::digest(request.as_bytes()));
        let text = format!("{ALGORITHM}\n{}\n{}\n{hash}", self.date, self.scope);
        let first = format!("AWS4{}", key.secret_access_key.reveal()).into_bytes();
        let mut signing = first;
        for term in self.scope.split('/') {
            signing = keyed(&signing, term).map_err(|_| mismatch())?.finalize().into_bytes().to_vec();
        }
        // In constant time.
        keyed(&signing, &text).map_err(|_| mismatch())?.verify_slice(&self.signature).map_err(|_| mismatch())
    }
}

fn keyed(key: &[u8], text: &str) -> Result<Hmac<Sha256>, hmac::digest::InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(mac)
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(400, "InvalidSignatureException", message.to_owned())
}

fn mismatch() -> ApiError {
    invalid(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
         Access Key and signing method. Consult the service documentation for details.",
    )
}

/// The time of `YYYYMMDDTHHMMSSZ`.
fn instant(date: &str) -> Option<SystemTime> {
    let digits = date.strip_suffix('Z')?;
    let (day, time) = digits.split_once('T').filter(|(day, time)| day.len() == 8 && time.len() == 6)?;
    let part = |text: &str, from: usize, to: usize| text.get(from..to).map(str::to_owned);
    let (year, month, day) = (part(day, 0, 4)?, part(day, 4, 6)?, part(day, 6, 8)?);
    let (hour, minute, second) = (part(time, 0, 2)?, part(time, 2, 4)?, part(time, 4, 6)?);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// Of the request below, by botocore 1.43.
    const SIGNATURE: &str = "bf6759722812ca48b1f155db2efed7c33fa3800997a4f9ecdf673c406888695d";
    const BODY: &[u8] = br#"{"DeliveryStreamName": "app", "Record": {"Data": "b25l"}}"#;
    const DATE: &str = "20261127T120000Z";

    fn key(secret: &str) -> SigningKey {
        SigningKey {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new(secret.to_owned()),
        }
    }

    fn request(change: &[(&'static str, &str)]) -> HeaderMap {
        let authorization = format!(
            "{ALGORITHM} Credential=AKIDEXAMPLE/20261127/eu-west-1/firehose/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={SIGNATURE}"
        );
        let mut headers = HeaderMap::new();
        let all = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/x-amz-json-1.1"),
            ("host", "hydrant.example:4573"),
            ("x-amz-date", DATE),
            ("x-amz-target", "Firehose_20150804.PutRecord"),
        ];
        for (name, value) in all.iter().chain(change) {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    fn verdict(headers: &HeaderMap, body: &[u8], secret: &str, later: i64) -> Result<(), ApiError> {
        let signed_at = instant(DATE).unwrap();
        let off = Duration::from_secs(later.unsigned_abs());
        let now = if later < 0 { signed_at - off } else { signed_at + off };
        let key = key(secret);
        Claimed::read(headers, "hydrant.example:4573", &key, now)?.verify(body, &key)
    }

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    // R-W5
    #[test]
    fn a_signature_of_another_signer_is_right_for_its_request_and_for_no_other() {
        assert_eq!(verdict(&request(&[]), BODY, SECRET, 0), Ok(()));
        let mut without_host = request(&[]);
        without_host.remove("host");
        assert_eq!(verdict(&without_host, BODY, SECRET, 299), Ok(()));
        let check = |change: &[(&'static str, &str)], body: &[u8], secret: &str, later: i64, code: &str| {
            let error = verdict(&request(change), body, secret, later).unwrap_err();
            assert_eq!((error.status, error.code), (400, code), "{change:?} {error:?}");
        };
        check(&[], b"another body", SECRET, 0, "InvalidSignatureException");
        check(&[], BODY, "another secret", 0, "InvalidSignatureException");
        check(&[], BODY, SECRET, 301, "InvalidSignatureException");
        check(&[], BODY, SECRET, -301, "InvalidSignatureException");
        check(&[("host", "other")], BODY, SECRET, 0, "InvalidSignatureException");
        check(
            &[("x-amz-target", "Firehose_20150804.PutRecordBatch")],
            BODY,
            SECRET,
            0,
            "InvalidSignatureException",
        );
        check(&[("x-amz-date", "20261127T120001Z")], BODY, SECRET, 0, "InvalidSignatureException");
        check(&[("x-amz-date", "yesterday")], BODY, SECRET, 0, "IncompleteSignatureException");
        let with = |from: &str, to: &str| {
            let headers = request(&[]);
            headers["authorization"].to_str().unwrap().replace(from, to)
        };
        let authorized = |from, to, code| check(&[("authorization", &with(from, to))], BODY, SECRET, 0, code);
        authorized("AKIDEXAMPLE", "AKIDOTHER", "UnrecognizedClientException");
        authorized("/firehose/", "/s3/", "InvalidSignatureException");
        authorized("20261127/", "20261126/", "InvalidSignatureException");
        authorized("eu-west-1", "us-east-1", "InvalidSignatureException");
        authorized(";x-amz-target", "", "InvalidSignatureException");
        authorized("Signature=", "Signature=00", "InvalidSignatureException");
        authorized("Signature=", "Signature=xy", "InvalidSignatureException");
        authorized("Signature=", "Nothing=", "IncompleteSignatureException");
        authorized(ALGORITHM, "AWS4-ECDSA-P256-SHA256", "IncompleteSignatureException");
        let mut unsigned = request(&[]);
        unsigned.remove("authorization");
        assert_eq!(
            verdict(&unsigned, BODY, SECRET, 0).unwrap_err().code,
            "MissingAuthenticationTokenException"
        );
    }
}
