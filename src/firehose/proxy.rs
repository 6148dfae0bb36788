//! Which proxy a request goes through, from the environment, by curl's rules.
//!
//! `HTTPS_PROXY` counts for `https` destinations, `HTTP_PROXY` for `http` ones, `ALL_PROXY` for
//! both, `NO_PROXY` names exceptions; each may be lower case. Two exceptions always hold, as a
//! proxy is another host than this one: loopback, and the link-local addresses where EC2, ECS and
//! EKS hand out this host's credentials.

use aws_smithy_http_client::proxy::ProxyConfig;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// Loopback; link-local, where the metadata services of EC2 (169.254.169.254), ECS
/// (169.254.170.2) and EKS (169.254.170.23) are; and the IPv6 addresses of EC2's and EKS's
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>,
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>).
const NEVER: &str = "localhost,127.0.0.0/8,::1,169.254.0.0/16,fd00:ec2::254,fd00:ec2::23";

/// A proxy variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is not the URL of an HTTP proxy, like http://proxy.example.com:3128")]
pub struct ProxyError {
    variable: &'static str,
}

/// The proxies for either kind of destination.
#[derive(Debug, Clone)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    except: String,
}

/// The proxies that the variables found by `lookup` name. An empty variable is none.
///
/// # Errors
///
/// [`ProxyError`] where a variable is not the URL of an HTTP proxy.
pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Proxies, ProxyError> {
    let find = |upper: &'static str, lower: &str| {
        let value = lookup(upper).or_else(|| lookup(lower)).filter(|value| !value.is_empty());
        value.map(|value| (upper, value))
    };
    let url = |(variable, value): (&'static str, String)| {
        let url = if value.contains("://") { value } else { format!("http://{value}") };
        ProxyConfig::all(url.as_str()).map(|_| url).map_err(|_| ProxyError { variable })
    };
    let all = || find("ALL_PROXY", "all_proxy");
    // A CGI server passes a request's `Proxy` header as HTTP_PROXY (CVE-2016-5385).
    let http = find("HTTP_PROXY", "http_proxy").filter(|_| lookup("REQUEST_METHOD").is_none());
    let no = find("NO_PROXY", "no_proxy").map(|(_, rules)| rules).unwrap_or_default();
    Ok(Proxies {
        http: http.or_else(all).map(url).transpose()?,
        https: find("HTTPS_PROXY", "https_proxy").or_else(all).map(url).transpose()?,
        except: format!("{NEVER},{no}"),
    })
}

impl Proxies {
    /// The proxy for destinations of scheme `http`.
    pub(super) fn plain(&self) -> Option<ProxyConfig> {
        self.config(self.http.as_deref()?)
    }

    /// The proxy for destinations of scheme `https`.
    pub(super) fn tls(&self) -> Option<ProxyConfig> {
        self.config(self.https.as_deref()?)
    }

    fn config(&self, url: &str) -> Option<ProxyConfig> {
        ProxyConfig::all(url).ok().map(|config| config.no_proxy(&self.except))
    }

    /// Whether plain destinations need TLS all the same, because their proxy speaks it.
    pub(super) fn plain_needs_tls(&self) -> bool {
        self.http.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// The proxy through which a request to `destination` goes, without its password; `None` is
    /// straight there.
    #[must_use]
    pub fn route(&self, destination: &Uri) -> Option<Uri> {
        let matcher = Matcher::builder()
            .http(self.http.clone().unwrap_or_default())
            .https(self.https.clone().unwrap_or_default())
            .no(self.except.clone())
            .build();
        matcher.intercept(destination).map(|intercept| intercept.uri().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], destination: &str, expected: Option<&str>) {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let proxies = from_environment(lookup).expect("every URL is good");
        let route = proxies.route(&destination.parse().expect("a URI")).map(|uri| uri.to_string());
        assert_eq!(route.as_deref(), expected, "{variables:?} to {destination}");
    }

    #[test]
    fn a_destination_goes_through_the_proxy_of_its_scheme() {
        let both = &[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:2")];
        check(both, "https://firehose.eu-west-1.amazonaws.com", Some("http://s:1/"));
        check(both, "http://example.com", Some("http://p:2/"));
        check(&[("https_proxy", "s:1")], "https://example.com", Some("http://s:1/"));
        check(&[("https_proxy", "s:1")], "http://example.com", None);
        check(
            &[("ALL_PROXY", "http://a:3"), ("HTTPS_PROXY", "")],
            "https://example.com",
            Some("http://a:3/"),
        );
        check(&[("HTTP_PROXY", "http://p:2"), ("REQUEST_METHOD", "GET")], "http://example.com", None);
        check(&[], "https://example.com", None);
    }

    #[test]
    fn exceptions_go_straight() {
        let all = |no| [("ALL_PROXY", "http://user:secret@a:3"), ("no_proxy", no)];
        check(&all(""), "http://example.com", Some("http://a:3/"));
        check(&all("example.com"), "http://www.example.com", None);
        check(&all("10.0.0.0/8,.internal"), "http://10.1.2.3", None);
        check(&all("10.0.0.0/8,.internal"), "http://vpce.internal", None);
        check(&all("*"), "https://example.com", None);
    }

    // R-B9
    #[test]
    fn this_host_and_its_metadata_services_are_never_behind_a_proxy() {
        let all = &[("ALL_PROXY", "http://a:3")];
        for destination in [
            "http://169.254.169.254/latest",
            "http://169.254.170.2/v2",
            "http://[fd00:ec2::254]/",
            "http://[::1]:80/",
        ] {
            check(all, destination, None);
        }
        check(all, "http://localhost:4566", None);
        check(all, "http://127.0.0.1:4566", None);
    }

    #[test]
    fn a_variable_that_is_no_proxy_url_is_named() {
        let check = |value: &str| {
            let error = from_environment(|name| (name == "HTTPS_PROXY").then(|| value.to_owned()));
            assert!(error.expect_err(value).to_string().starts_with("HTTPS_PROXY is not"), "{value}");
        };
        check("socks5://a:1");
        check("http://");
        check("a b");
    }
}
