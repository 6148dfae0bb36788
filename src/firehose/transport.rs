//! The HTTP client under every AWS client: rustls with ring, bounded pools, proxies.

use std::time::Duration;

use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

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
    let client = |proxy: Option<aws_smithy_http_client::proxy::ProxyConfig>, trust: TrustStore| {
        Builder::new().build_with_connector_fn(move |settings, components| {
            let context = TlsContext::builder().with_trust_store(trust.clone()).build();
            let mut builder =
                Connector::builder().pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(max_idle);
            builder
                .set_connector_settings(settings.cloned())
                .set_proxy_config(proxy.clone())
                .set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            let mut builder = builder.tls_provider(Provider::Rustls(CryptoMode::Ring));
            if let Ok(context) = context {
                builder.set_tls_context(context);
            }
            builder.build_with_resolver(Resolver)
        })
    };
    SharedHttpClient::new(ByScheme {
        plain: client(proxies.plain(), trust),
        tls: client(proxies.tls(), TrustStore::default()),
    })
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
