//! The words of `format-spec` once more as code, apart from the program's own: sealing with a given salt, envelopes, and
//! cutting. Where the program and this agree, the text can be followed.

use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, aead::AeadInOut};

/// `05-secrets.md`, "Sealing": the text sealed under a name, a salt and a part; hashes where there is no seal key.
pub fn seal(seal_key: Option<[u8; 32]>, name: &str, salt: &[u8], part: u64, clear: &[u8], text: &[u8]) -> Vec<u8> {
    let context = if seal_key.is_some() { "xsnap 2026 seal of an object" } else { "xsnap 2026 proof of an object" };
    let material = [&seal_key.unwrap_or([0; 32]), salt, name.as_bytes()].concat();
    let key = blake3::derive_key(context, &material);
    let mut sealed = text.to_vec();
    if seal_key.is_some() {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&part.to_le_bytes());
        let cipher = ChaCha20Poly1305::new(&Key::from(key));
        let tag = cipher.encrypt_inout_detached(&Nonce::from(nonce), clear, sealed.as_mut_slice().into()).unwrap();
        sealed.extend_from_slice(&tag);
    } else {
        let proven = [&part.to_le_bytes()[..], &(clear.len() as u64).to_le_bytes(), clear, text].concat();
        sealed.extend_from_slice(&blake3::keyed_hash(&key, &proven).as_bytes()[..16]);
    }
    sealed
}

/// A body that begins with its salt.
pub fn seal_body(seal_key: Option<[u8; 32]>, name: &str, salt: [u8; 16], clear: &[u8], text: &[u8]) -> Vec<u8> {
    [&salt[..], &seal(seal_key, name, &salt, 0, clear, text)].concat()
}

/// `01-objects.md`, "The envelope".
pub fn envelope(kind: u8, repository: [u8; 16], name: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89xsnap\r\n".to_vec();
    bytes.extend([1, kind, 0, 0, 0, 0, 0, 0]);
    bytes.extend(repository);
    bytes.extend(name.as_bytes());
    bytes.resize(64, 0);
    bytes.extend(body);
    bytes.extend((bytes.len() as u64 + 40).to_le_bytes());
    let proof = blake3::hash(&bytes);
    bytes.extend(proof.as_bytes());
    bytes
}

/// `02-blobs.md`, "Where streams are cut": the gear table of an identity key.
pub fn keyed_gear(identity: [u8; 32]) -> Vec<u64> {
    let mut bytes = vec![0; 2048];
    blake3::Hasher::new_derive_key("xsnap 2026 gear table").update(&identity).finalize_xof().fill(&mut bytes);
    bytes.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).collect()
}

/// The masks from number 7 on.
const MASKS: [u64; 17] = [
    0x1803_5100,
    0x18_0003_5300,
    0x190_0035_3000,
    0x5900_0353_0000,
    0xd900_0353_0000,
    0xd901_0353_0000,
    0xd903_0353_0000,
    0xd903_1353_0000,
    0xd90f_0353_0000,
    0xd903_0353_7000,
    0xd907_0353_7000,
    0xd907_0753_7000,
    0xd917_0753_7000,
    0xd917_4753_7000,
    0xd917_6753_7000,
    0xd937_6753_7000,
    0xd937_7753_7000,
];

/// Lengths of the chunks of a stream.
pub fn cuts(gear: &[u64], [min, avg, max]: [usize; 3], stream: &[u8]) -> Vec<usize> {
    if stream.len() <= avg {
        return [stream.len()].into_iter().filter(|n| *n > 0).collect();
    }
    let bits = (avg as f64).log2().round() as usize;
    let (strict, relaxed) = (MASKS[bits + 1 - 7], MASKS[bits - 1 - 7]);
    let (mut lengths, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let at = first_cut(gear, [min, avg, max], [strict, relaxed], rest);
        lengths.push(at);
        rest = &rest[at..];
    }
    lengths
}

fn first_cut(gear: &[u64], [min, avg, max]: [usize; 3], [strict, relaxed]: [u64; 2], s: &[u8]) -> usize {
    if s.len() <= min {
        return s.len();
    }
    let n = s.len().min(max);
    let center = n.min(avg);
    let mut h = 0_u64;
    for i in min / 2..n / 2 {
        let mask = if i < center / 2 { strict } else { relaxed };
        h = (h << 2).wrapping_add(gear[s[2 * i] as usize] << 1);
        if h & (mask << 1) == 0 {
            return 2 * i;
        }
        h = h.wrapping_add(gear[s[2 * i + 1] as usize]);
        if h & mask == 0 {
            return 2 * i + 1;
        }
    }
    n
}
