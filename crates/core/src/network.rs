//! Networks of addresses, as `10.0.0.0/8`.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// Any of several networks; none contains nothing.
#[derive(Clone, Debug, Default)]
pub struct Networks(Vec<(IpAddr, u32)>);

impl Networks {
    /// Reads `10.0.0.0/8` and the like; a single address stands for itself.
    pub fn parse<S: AsRef<str>>(networks: &[S]) -> Result<Self> {
        let read = |text: &str| {
            let (address, bits) =
                text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.trim().parse().ok()?;
            let bits_max = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(bits_max), |bits| bits.parse().ok())?;
            (bits <= bits_max).then_some((address, bits))
        };
        let networks = networks.iter().map(|network| {
            let network = network.as_ref();
            read(network).ok_or_else(|| {
                Error::bad_request(format!("`{network}` is not a network such as 10.0.0.0/8."))
            })
        });
        networks.collect::<Result<_>>().map(Self)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let bits_of = |address: IpAddr| match address {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, true),
            IpAddr::V6(ip) => (ip.to_bits(), false),
        };
        let (own, is_v4) = bits_of(address.to_canonical());
        self.0.iter().any(|(network, length)| {
            let (network, network_is_v4) = bits_of(*network);
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            is_v4 == network_is_v4 && (own ^ network) & mask == 0
        })
    }
}
