//! Addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{super::Handoff, RestoreError, leaf};

leaf!(Ipv4Addr, Ipv4Addr, |value, out| out.bytes(&value.octets()), |input| input.exact::<4>().map(Self::from));
leaf!(Ipv6Addr, Ipv6Addr, |value, out| out.bytes(&value.octets()), |input| input.exact::<16>().map(Self::from));

leaf!(
    IpAddr,
    IpAddr,
    |value, out| match value {
        IpAddr::V4(address) => {
            out.scalar(4u8)?;
            address.save(out)
        }
        IpAddr::V6(address) => {
            out.scalar(6u8)?;
            address.save(out)
        }
    },
    |input| match input.scalar::<u8>()? {
        4 => Ipv4Addr::restore(input).map(IpAddr::V4),
        6 => Ipv6Addr::restore(input).map(IpAddr::V6),
        other => Err(RestoreError::new(format!("there is no IP version {other}"))),
    }
);

leaf!(
    SocketAddrV4,
    SocketAddrV4,
    |value, out| {
        out.bytes(&value.ip().octets())?;
        out.scalar(value.port())
    },
    |input| Ok(Self::new(Handoff::restore(input)?, input.scalar()?))
);

leaf!(
    SocketAddrV6,
    SocketAddrV6,
    |value, out| {
        out.bytes(&value.ip().octets())?;
        out.scalar(value.port())?;
        out.scalar(value.flowinfo())?;
        out.scalar(value.scope_id())
    },
    |input| Ok(Self::new(Handoff::restore(input)?, input.scalar()?, input.scalar()?, input.scalar()?))
);

leaf!(
    SocketAddr,
    SocketAddr,
    |value, out| match value {
        SocketAddr::V4(address) => {
            out.scalar(4u8)?;
            address.save(out)
        }
        SocketAddr::V6(address) => {
            out.scalar(6u8)?;
            address.save(out)
        }
    },
    |input| match input.scalar::<u8>()? {
        4 => SocketAddrV4::restore(input).map(SocketAddr::V4),
        6 => SocketAddrV6::restore(input).map(SocketAddr::V6),
        other => Err(RestoreError::new(format!("there is no IP version {other}"))),
    }
);
