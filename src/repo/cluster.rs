//! The cluster that a snapshot is of: whose it is, and what a list tells of it.
//!
//! Both directions of the encoding live here. Knows nothing of snapshots. See `format-spec/06-snapshots.md`, "Clusters".

use crate::{
    blobs::codec::{self, Extensions},
    error::{Error, Result},
};
use bincode::{Decode, Encode};

/// No name, customer, order, version or distribution is longer, in bytes.
pub const MAX_WORD_BYTES: usize = 1024;
/// No cluster has more serial numbers than these recorded.
pub const MAX_SERIALS: usize = 65_536;
/// Nor more bytes of them together.
pub const MAX_SERIALS_BYTES: usize = 1 << 20;

/// The cluster that a snapshot is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Cluster {
    /// What it is called, and chosen by; never empty.
    pub name: String,
    /// Whose it is.
    pub customer: String,
    /// By which order it was made.
    pub order: String,
    /// Serial numbers of its machines.
    pub serials: Vec<String>,
    /// The version of xCAT that manages it.
    pub xcat: String,
    /// The distribution that its management node runs.
    pub distribution: String,
    /// How many nodes it has.
    pub nodes: u64,
    /// Room for later versions; kept by copies.
    pub extensions: Extensions,
}

impl Cluster {
    /// Why no snapshot may be of this cluster.
    fn fault(&self) -> Option<&'static str> {
        let words = [&self.name, &self.customer, &self.order, &self.xcat, &self.distribution];
        let serials_bytes: usize = self.serials.iter().map(String::len).sum();
        if self.name.is_empty() {
            return Some("it has no name");
        }
        if words.iter().any(|word| word.len() > MAX_WORD_BYTES) {
            return Some("one of its words is longer than 1024 bytes");
        }
        let too_many = self.serials.len() > MAX_SERIALS || serials_bytes > MAX_SERIALS_BYTES;
        too_many.then_some("it has more serial numbers than are recorded")
    }

    /// The bytes of the extension that a snapshot holds.
    ///
    /// # Errors
    /// `Usage` where a word is missing or too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        match self.fault() {
            Some(fault) => Err(Error::Usage(format!("a snapshot cannot be of the cluster {:?}: {fault}", self.name))),
            None => Ok(codec::encode(self)),
        }
    }

    /// Makes sense of such bytes; nothing where they make none here, as those of a later version may not.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode::<Self>(bytes, "a cluster").ok().filter(|cluster| cluster.fault().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_comes_back_as_it_was_and_one_out_of_bounds_not_at_all() {
        let cluster = Cluster {
            name: "alpha".into(),
            customer: "Ä".into(),
            serials: vec!["S1".into(), String::new()],
            nodes: u64::MAX,
            extensions: vec![(9, b"later".to_vec())],
            ..Cluster::default()
        };
        let bytes = cluster.encode().unwrap();
        assert_eq!(Cluster::decode(&bytes).as_ref(), Some(&cluster));
        assert_eq!(Cluster::decode(&[&bytes[..], b"x"].concat()), None, "bytes that belong to nothing");
        assert_eq!(Cluster::decode(&bytes[..bytes.len() - 1]), None);
        for wrong in [
            Cluster { name: String::new(), ..cluster.clone() },
            Cluster { order: "x".repeat(MAX_WORD_BYTES + 1), ..cluster.clone() },
            Cluster { serials: vec![String::new(); MAX_SERIALS + 1], ..cluster.clone() },
            Cluster { serials: vec!["x".repeat(MAX_SERIALS_BYTES + 1)], ..cluster },
        ] {
            assert!(matches!(wrong.encode(), Err(Error::Usage(_))));
            assert_eq!(Cluster::decode(&codec::encode(&wrong)), None);
        }
    }
}
