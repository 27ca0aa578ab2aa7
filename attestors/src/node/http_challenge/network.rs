//! Where a server goes because somebody asked it to: the open internet, and what an operator allows.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address, and how many of its bits count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    addr: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is of this network.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(own), IpAddr::V4(addr)) => {
                let all = u32::BITS - u32::from(self.bits);
                let differing = own.to_bits() ^ addr.to_bits();
                differing.checked_shr(all).unwrap_or_default() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(addr)) => {
                let all = u128::BITS - u32::from(self.bits);
                let differing = own.to_bits() ^ addr.to_bits();
                differing.checked_shr(all).unwrap_or_default() == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads `ADDRESS/BITS`, or an address alone.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_e| NotANetwork)?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_e| NotANetwork))?;
        match bits <= most {
            true => Ok(Self { addr, bits }),
            false => Err(NotANetwork),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

/// The text is no network.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a network such as `10.0.0.0/8` or `fd00::/8`")]
pub struct NotANetwork;

/// Networks that are not of the open internet: this host, links, private ones, those of carriers, those
/// with a meaning of their own (RFC 6890).
const INTERNAL_V4: [(Ipv4Addr, u8); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Of IPv6 only 2000::/3 is given out; these parts of it lead to IPv4 addresses, or nowhere.
const INTERNAL_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

const GIVEN_OUT_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Whether a server may go there: to the open internet, or where its operator allows it.
pub(super) fn may_go(addr: IpAddr, allowed: &[Network]) -> bool {
    // An IPv4 address in IPv6's clothes is the IPv4 address.
    let addr = addr.to_canonical();
    allowed.iter().any(|network| network.contains(addr)) || !is_internal(addr)
}

fn is_internal(addr: IpAddr) -> bool {
    fn of(addr: IpAddr, (network, bits): (impl Into<IpAddr>, u8)) -> bool {
        let addr_of = network.into();
        let network = Network {
            addr: addr_of,
            bits,
        };
        network.contains(addr)
    }
    match addr {
        IpAddr::V4(_) => INTERNAL_V4.into_iter().any(|network| of(addr, network)),
        IpAddr::V6(_) => {
            !of(addr, GIVEN_OUT_V6) || INTERNAL_V6.into_iter().any(|network| of(addr, network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_goes_to_no_internal_address_unless_it_is_allowed() {
        for addr in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!may_go(addr.parse().unwrap(), &[]), "{addr}");
        }
        for addr in [
            "1.1.1.1",
            "172.32.0.1",
            "223.255.255.255",
            "2606:4700::1111",
        ] {
            assert!(may_go(addr.parse().unwrap(), &[]), "{addr}");
        }
        let allowed: [Network; 2] = ["10.2.0.0/16", "fd00::/8"].map(|text| text.parse().unwrap());
        for (addr, may) in [
            ("10.2.255.1", true),
            ("::ffff:10.2.0.1", true),
            ("10.3.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(may_go(addr.parse().unwrap(), &allowed), may, "{addr}");
        }
    }

    #[test]
    fn a_network_is_an_address_and_its_bits() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/128"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("::1".parse::<Network>().unwrap().to_string(), "::1/128");
        let everything: Network = "0.0.0.0/0".parse().unwrap();
        assert!(everything.contains("255.1.2.3".parse().unwrap()));
        let one: Network = "10.0.0.1".parse().unwrap();
        assert!(one.contains("10.0.0.1".parse().unwrap()));
        assert!(!one.contains("10.0.0.2".parse().unwrap()));
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "x"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}
