//! The HTTP client under every AWS client, and under telemetry: rustls with ring, bounded pools,
//! proxies.

use std::sync::OnceLock;
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};

use super::classify;
use super::proxy::Proxies;

/// How long an unused connection is kept: far less than the 350 s after which a NAT gateway
/// forgets it without a word, so that a request seldom meets a dead one
/// (<https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html>).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Two clients in one, chosen by the request's scheme.
///
/// They differ in their proxy, and in that the roots of trust are read only when the first
/// `https` request is made: with a plain endpoint, never.
#[derive(Debug, Clone)]
struct ByScheme {
    plain: SharedHttpClient,
    tls: SharedHttpClient,
}

/// A client that goes through `proxies` and keeps at most `max_idle` unused connections a host.
pub(super) fn client(proxies: &Proxies, max_idle: usize) -> SharedHttpClient {
    let trust = if proxies.plain_needs_tls() { TrustStore::default() } else { TrustStore::empty() };
    let client = |proxy: Option<ProxyConfig>, trust: TrustStore| {
        Builder::new().build_with_connector_fn(move |settings, components| {
            let mut builder = Connector::builder().pool_max_idle_per_host(max_idle);
            builder
                .set_connector_settings(settings.cloned())
                .set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            connector(builder, proxy.clone(), trust.clone())
        })
    };
    SharedHttpClient::new(ByScheme {
        plain: client(proxies.plain(), trust),
        tls: client(proxies.tls(), TrustStore::default()),
    })
}

fn connector(mut builder: ConnectorBuilder, proxy: Option<ProxyConfig>, trust: TrustStore) -> Connector {
    builder.set_proxy_config(proxy);
    let mut builder =
        builder.pool_idle_timeout(IDLE_TIMEOUT).tls_provider(Provider::Rustls(CryptoMode::Ring));
    if let Ok(context) = TlsContext::builder().with_trust_store(trust).build() {
        builder.set_tls_context(context);
    }
    builder.build_with_resolver(Resolver)
}

/// The same client for what is not AWS: requests as they are, through the same proxies, with the
/// same roots of trust. Keeps one unused connection a host. Has no time limit of its own.
#[derive(Debug)]
pub struct Outbound {
    proxies: Proxies,
    plain: OnceLock<Connector>,
    tls: OnceLock<Connector>,
}

impl Outbound {
    /// A client that has done nothing yet: roots of trust are read when the first request needs
    /// them.
    #[must_use]
    pub fn new(proxies: Proxies) -> Self {
        Self { proxies, plain: OnceLock::new(), tls: OnceLock::new() }
    }

    /// The answer to `request`, of whose body at most `limit` bytes are taken.
    ///
    /// # Errors
    ///
    /// A sentence without its full stop: what kept the answer from coming.
    pub async fn send(
        &self,
        request: http::Request<Vec<u8>>,
        limit: usize,
    ) -> Result<http::Response<Bytes>, String> {
        let plain = request.uri().scheme() == Some(&http::uri::Scheme::HTTP);
        let request = request.map(SdkBody::from).try_into().map_err(|error| classify::root(&error))?;
        let connector = if plain { self.plain() } else { self.tls() };
        let answer = connector.call(request).await.map_err(|error| classify::root(&error))?;
        let answer = answer.try_into_http1x().map_err(|error| classify::root(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(|error| classify::root(&*error))?;
        Ok(http::Response::from_parts(head, body.to_bytes()))
    }

    fn plain(&self) -> &Connector {
        let needs_tls = self.proxies.plain_needs_tls();
        let trust = if needs_tls { TrustStore::default() } else { TrustStore::empty() };
        self.plain.get_or_init(|| connector(Self::builder(), self.proxies.plain(), trust))
    }

    fn tls(&self) -> &Connector {
        self.tls.get_or_init(|| connector(Self::builder(), self.proxies.tls(), TrustStore::default()))
    }

    fn builder() -> ConnectorBuilder {
        Connector::builder().pool_max_idle_per_host(1)
    }
}

impl HttpClient for ByScheme {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Route {
            clients: self.clone(),
            settings: settings.clone(),
            components: components.clone(),
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.plain.connector_metadata()
    }
}

#[derive(Debug)]
struct Route {
    clients: ByScheme,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Route {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let plain = request.uri().starts_with("http://");
        let client = if plain { &self.clients.plain } else { &self.clients.tls };
        client.http_connector(&self.settings, &self.components).call(request)
    }
}

/// The system's resolver, whose failures are of a type of their own.
#[derive(Debug, Clone)]
struct Resolver;

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}
