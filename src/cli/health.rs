//! `hydrant health`: whether a daemon lives, for probes where there is no shell and no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ask;
use super::options::{ConfigOptions, say};
use crate::config::{Address, connect_address};

/// Asks a running hydrant whether it is alive; exits with 0 if so
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, as the health check of a container:\n  \
                        HEALTHCHECK CMD [\"/usr/bin/hydrant\", \"health\"]")]
pub struct Args {
    /// The daemon's admin.address [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS", value_parser = connect_address)]
    admin: Option<Address>,
    /// Ask whether it is fit to be given records (/readyz) instead of whether it lives (/livez)
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    options: ConfigOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let address = match args.admin {
        Some(address) => address,
        None => match args.options.admin() {
            Ok(Some(address)) => reachable(address),
            Ok(None) => {
                say("error: `admin.address` is off, so nobody can be asked");
                return super::USAGE;
            }
            Err(code) => return code,
        },
    };
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let path = if args.ready { "/readyz" } else { "/livez" };
    match runtime.block_on(ask::get(&address, path)) {
        Ok((status, body)) => {
            let code = super::print(&String::from_utf8_lossy(&body));
            if status.is_success() { code } else { super::FAILED }
        }
        Err(error) => {
            say(&format!("error: {error}"));
            super::FAILED
        }
    }
}

/// Where a listener on every interface can be connected to: loopback.
fn reachable(address: Address) -> Address {
    let Address::Tcp(mut address) = address else { return address };
    if address.ip().is_unspecified() {
        let loopback = match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    Address::Tcp(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-T5
    #[test]
    fn a_listener_on_every_interface_is_asked_on_loopback() {
        let check = |from: &str, to: &str| {
            let address = connect_address(from).expect("an address");
            assert_eq!(reachable(address).to_string(), to);
        };
        check("tcp:0.0.0.0:9464", "tcp:127.0.0.1:9464");
        check("tcp:[::]:9464", "tcp:[::1]:9464");
        check("tcp:10.0.0.1:9464", "tcp:10.0.0.1:9464");
        check("unix:/run/admin.sock", "unix:/run/admin.sock");
    }
}
