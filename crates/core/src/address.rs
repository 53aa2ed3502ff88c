//! Addresses of upstreams and servers: `http` and `https` URLs, read strictly.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};

/// A parsed `http` or `https` URL without user, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub is_tls: bool,
    /// A name or an IP address; IPv6 without its brackets.
    pub host: String,
    pub port: u16,
    /// Empty, or begins with a slash and does not end with one.
    pub path: String,
}

impl Address {
    /// Reads a URL; the error says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("it must begin with http:// or https://")?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("it must begin with http:// or https://"),
        };
        if rest.contains(['?', '#']) {
            return Err("it must have neither a query nor a fragment");
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("it must not contain a user or password");
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) => digits.parse().ok().filter(|port| *port > 0).ok_or("its port is not a number")?,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%:@!$&'()*+,;=".contains(&byte);
        if !path.bytes().all(plain) || path.contains("/../") || path.ends_with("/..") {
            return Err("its path has characters that cannot be in a URL");
        }
        Ok(Self {
            is_tls,
            host: host.to_ascii_lowercase(),
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let mut text = String::new();
        self.push_authority(&mut text);
        text
    }

    /// Appends the value of the `Host` header.
    pub fn push_authority(&self, text: &mut String) {
        if self.host.contains(':') {
            text.extend(["[", &self.host, "]"]);
        } else {
            text.push_str(&self.host);
        }
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port != usual {
            let _ = write!(text, ":{}", self.port);
        }
    }

    /// Scheme, host and port: what a credential is given for.
    pub fn origin(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Whether this is the machine itself, where plain HTTP gives nothing away.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    const NO_HOST: &str = "its host is not a name or an address";
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(NO_HOST)?;
        host.parse::<Ipv6Addr>().map_err(|_| NO_HOST)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(NO_HOST),
        };
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_name { Ok((host, port)) } else { Err(NO_HOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_strictly_and_printed_back() {
        for (url, printed) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("HTTPS://API.OpenAI.com:443/v1/", "https://api.openai.com/v1"),
            ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("http://vllm_1.internal/", "http://vllm_1.internal"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), printed);
        }
        for url in [
            "",
            "api.openai.com",
            "ftp://x/",
            "https://",
            "https://user:pw@x/",
            "https://x/?a=b",
            "https://x/#f",
            "https://x:0/",
            "https://x:99999/",
            "https://x:abc/",
            "http://[::1",
            "http://a b/",
            "http://x/\r\nHost: y",
            "http://x/a/../b",
            "http://x\u{3002}y/",
            "http:///v1",
            "http://[x]/",
        ] {
            assert!(Address::parse(url).is_err(), "{url:?}");
        }
    }
}
