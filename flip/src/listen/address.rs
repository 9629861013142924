//! Where a listener listens: what `#[listen(…)]` accepts, and how it is read.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::BoxError;

/// Where a listener listens.
///
/// Its text is `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, `unix:/run/app.sock`, `@abstract` or `systemd:name`. Addresses are
/// compared as they are configured: `127.0.0.1:0` keeps the port that it once got.
///
/// ```
/// use flip::Address;
///
/// let address: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(address, Address::Unix("/run/app.sock".into()));
/// assert_eq!(address.to_string(), "unix:/run/app.sock");
/// # Ok::<(), flip::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port; port 0 takes a free one (ip(7)).
    Ip(SocketAddr),
    /// `host:port`, resolved when it is bound; of several results the first that can be bound counts.
    Host(String),
    /// The path of a Unix socket (unix(7)).
    Unix(PathBuf),
    /// A name in Linux's abstract namespace, without its leading zero byte (unix(7)).
    Abstract(Vec<u8>),
    /// What a service manager passes at the start under this name: the `FileDescriptorName=` of a socket unit, or the unit's own name
    /// (systemd.socket(5)). One socket alone that nobody has named answers to any name.
    Systemd(String),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// What it resolves to, for the IP kinds.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Address::Ip(address) => Ok(vec![*address]),
            Address::Host(text) => {
                let found: Vec<_> = text.to_socket_addrs()?.collect();
                if found.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, format!("{text} resolves to no address")));
                }
                Ok(found)
            }
            Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_) => Ok(Vec::new()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "{address}"),
            Address::Host(text) => f.write_str(text),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Address::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let no = |reason| Err(AddressError { text: text.to_owned(), reason });
        if let Some(name) = text.strip_prefix('@').or_else(|| text.strip_prefix("unix:@")) {
            return if name.is_empty() {
                no("the abstract name is empty")
            } else {
                Ok(Address::Abstract(name.as_bytes().to_vec()))
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { no("the path is empty") } else { Ok(Address::Unix(path.into())) };
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return match name.strip_suffix(".socket").unwrap_or(name) {
                "" => no("the name of what systemd passes is empty"),
                name => Ok(Address::Systemd(name.to_owned())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Ip(address));
        }
        if text.contains('/') {
            return no("a Unix socket is written as `unix:/path`");
        }
        match text.rsplit_once(':') {
            Some(("", _)) => no("the host is missing; every interface is `0.0.0.0:port` or `[::]:port`"),
            Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => {
                Ok(Address::Host(text.to_owned()))
            }
            Some((host, _)) if host.contains(':') => no("an IPv6 address goes in brackets: `[::1]:8080`"),
            Some(_) => no("what follows the colon is no port (0 to 65535)"),
            None => no("expected `host:port`, `unix:/path`, `@abstract` or `systemd:name`"),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Address, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

/// What can be given to `#[listen(…)]`: an address, an `Option` of one, or several.
///
/// ```
/// use flip::{Address, ToAddress};
///
/// let one: Address = "127.0.0.1:8080".to_address()?;
/// let maybe: Option<Address> = Some("@abstract").to_address()?;
/// let several: Vec<Address> = ["127.0.0.1:8080", "[::1]:8080"].to_address()?;
/// # assert!(maybe.is_some() && several[0] == one);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an address to listen at",
    label = "not an address",
    note = "an address is a `SocketAddr`, `\"host:port\"`, `(IpAddr, u16)`, `\"unix:/run/app.sock\"`, `\"@abstract\"`, \
            `\"systemd:name\"`, a `Path` or a `flip::Address`; an `Option` of one may be off; a `Vec`, slice or array of them is several"
)]
pub trait ToAddress {
    /// `Address`, `Option<Address>` or `Vec<Address>`: a listener, one that may be off, or several.
    type Out;

    /// The address, read but not yet resolved.
    ///
    /// # Errors
    /// The text is no address.
    fn to_address(&self) -> Result<Self::Out, BoxError>;
}

impl ToAddress for Address {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(self.clone())
    }
}

impl ToAddress for str {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(self.parse()?)
    }
}

impl ToAddress for String {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(self.parse()?)
    }
}

impl ToAddress for Cow<'_, str> {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(self.parse()?)
    }
}

impl ToAddress for Path {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(Address::Unix(self.to_path_buf()))
    }
}

impl ToAddress for PathBuf {
    type Out = Address;

    fn to_address(&self) -> Result<Address, BoxError> {
        Ok(Address::Unix(self.clone()))
    }
}

macro_rules! socket_addresses {
    ($($type:ty),*) => {$(
        impl ToAddress for $type {
            type Out = Address;

            fn to_address(&self) -> Result<Address, BoxError> {
                Ok(Address::Ip(SocketAddr::from(*self)))
            }
        }
    )*};
}
socket_addresses!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

macro_rules! hosts_and_ports {
    ($($type:ty),*) => {$(
        impl ToAddress for ($type, u16) {
            type Out = Address;

            fn to_address(&self) -> Result<Address, BoxError> {
                match self.0.parse::<IpAddr>() {
                    Ok(ip) => Ok(Address::Ip(SocketAddr::new(ip, self.1))),
                    Err(_) => Ok(format!("{}:{}", self.0, self.1).parse()?),
                }
            }
        }
    )*};
}
hosts_and_ports!(&str, String);

impl<A: ToAddress + ?Sized> ToAddress for &A {
    type Out = A::Out;

    fn to_address(&self) -> Result<A::Out, BoxError> {
        A::to_address(self)
    }
}

impl<A: ToAddress> ToAddress for Option<A> {
    type Out = Option<A::Out>;

    fn to_address(&self) -> Result<Self::Out, BoxError> {
        self.as_ref().map(A::to_address).transpose()
    }
}

impl<A: ToAddress<Out = Address>> ToAddress for [A] {
    type Out = Vec<Address>;

    fn to_address(&self) -> Result<Vec<Address>, BoxError> {
        self.iter().map(A::to_address).collect()
    }
}

impl<A: ToAddress<Out = Address>, const N: usize> ToAddress for [A; N] {
    type Out = Vec<Address>;

    fn to_address(&self) -> Result<Vec<Address>, BoxError> {
        self.as_slice().to_address()
    }
}

impl<A: ToAddress<Out = Address>> ToAddress for Vec<A> {
    type Out = Vec<Address>;

    fn to_address(&self) -> Result<Vec<Address>, BoxError> {
        self.as_slice().to_address()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read() {
        let read = |text: &str| text.to_address().map_err(|e| e.to_string());
        assert_eq!(read("127.0.0.1:80"), Ok(Address::Ip(([127, 0, 0, 1], 80).into())));
        assert_eq!(read("[::1]:80"), Ok(Address::Ip((Ipv6Addr::LOCALHOST, 80).into())));
        assert_eq!(read("localhost:80"), Ok(Address::Host("localhost:80".into())));
        assert_eq!(read("unix:/run/a"), Ok(Address::Unix("/run/a".into())));
        assert_eq!(read("@a"), Ok(Address::Abstract(b"a".to_vec())));
        assert_eq!(read("unix:@a"), Ok(Address::Abstract(b"a".to_vec())));
        for text in
            ["", "@", "unix:", "/run/a", ":80", "localhost", "a:b", "::1:80", "a:70000", "systemd:", "systemd:.socket"]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(&format!("{text:?} is no address: ")), "{error}");
        }
        assert_eq!(read("systemd:http"), Ok(Address::Systemd("http".into())));
        assert_eq!(read("systemd:http.socket").unwrap().to_string(), "systemd:http");
        assert!(read("/run/a").unwrap_err().contains("`unix:/path`"));
    }

    #[test]
    fn what_is_no_text_is_an_address_too() {
        assert_eq!((Ipv4Addr::LOCALHOST, 1).to_address().unwrap(), "127.0.0.1:1".to_address().unwrap());
        assert_eq!(("::1", 1).to_address().unwrap(), "[::1]:1".to_address().unwrap());
        assert_eq!((String::from("a"), 1).to_address().unwrap(), "a:1".to_address().unwrap());
        assert_eq!(Path::new("/a").to_address().unwrap(), "unix:/a".to_address().unwrap());
        assert_eq!(None::<&str>.to_address().unwrap(), None);
        assert_eq!(Some(vec!["@a"]).to_address().unwrap().unwrap().len(), 1);
        assert_eq!(["@a", "@b"].to_address().unwrap().len(), 2);
        assert!(vec!["@a", "@"].to_address().is_err());
    }
}
