//! A collector that keeps what it is sent.

use std::convert::Infallible;
use std::io::Read;

use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::daemon::patiently;

/// What a collector does with an export.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    /// Takes it.
    Takes,
    /// Takes it but for one data point.
    TakesPart,
    /// Answers so, with a body that is no message.
    Answers(u16),
    /// Never answers.
    Silent,
    /// Answers what is not HTTP.
    Garbage,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Unpacked.
    pub(crate) body: Vec<u8>,
}

impl Export {
    pub(crate) fn metrics(&self) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest::decode(self.body.as_slice()).unwrap()
    }

    pub(crate) fn traces(&self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(self.body.as_slice()).unwrap()
    }
}

pub(crate) struct Collector {
    /// Without a path.
    pub(crate) url: String,
    exports: watch::Receiver<Vec<Export>>,
    manner: watch::Sender<Manner>,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, exports) = watch::channel(Vec::new());
        let (manner, manners) = watch::channel(manner);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (sender, manners) = (sender.clone(), manners.clone());
                tokio::spawn(async move {
                    if *manners.borrow() == Manner::Garbage {
                        let mut request = [0; 1024];
                        let _read = stream.read(&mut request).await;
                        let _written = stream.write_all(b"\0no HTTP at all\r\n\r\n").await;
                        return;
                    }
                    let service = service_fn(|request| answer(request, &sender, &manners));
                    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, exports, manner }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// What came to `path` so far.
    pub(crate) fn exports(&self, path: &str) -> Vec<Export> {
        self.exports.borrow().iter().filter(|export| export.path == path).cloned().collect()
    }

    /// Waits until what came to `path` is as expected.
    pub(crate) async fn until(
        &self,
        path: &str,
        what: &str,
        expected: impl Fn(&[Export]) -> bool,
    ) -> Vec<Export> {
        let mut exports = self.exports.clone();
        patiently(what, async {
            while !expected(&self.exports(path)) {
                exports.changed().await.unwrap();
            }
        })
        .await;
        self.exports(path)
    }

    /// An export of metrics that was begun after now.
    pub(crate) async fn next_metrics(&self) -> ExportMetricsServiceRequest {
        // The first to come may have been made before.
        let seen = self.exports("/v1/metrics").len();
        let exports = self.until("/v1/metrics", "exported metrics", |all| all.len() >= seen + 2).await;
        exports[seen + 1].metrics()
    }
}

async fn answer(
    request: Request<Incoming>,
    exports: &watch::Sender<Vec<Export>>,
    manners: &watch::Receiver<Manner>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(Response::default()) };
    let mut body = body.to_bytes().to_vec();
    if head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let packed = std::mem::take(&mut body);
        GzDecoder::new(packed.as_slice()).read_to_end(&mut body).unwrap();
    }
    let export = Export { path: head.uri.to_string(), headers: head.headers, body };
    exports.send_modify(|exports| exports.push(export));
    let manner = *manners.borrow();
    let body = match manner {
        Manner::TakesPart => {
            let partial =
                ExportMetricsPartialSuccess { rejected_data_points: 1, error_message: "no".to_owned() };
            ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        }
        Manner::Answers(_) => b"<html>no message</html>".to_vec(),
        Manner::Silent => std::future::pending().await,
        Manner::Takes | Manner::Garbage => Vec::new(),
    };
    let mut response = Response::new(Full::from(body));
    if let Manner::Answers(status) = manner {
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
    }
    Ok(response)
}
