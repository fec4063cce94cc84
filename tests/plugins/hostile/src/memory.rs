//! A search of the guest's whole memory.

/// The wanted texts (by place in the list) that stand somewhere in memory. They come with every byte xor-ed with 0xFF, as
/// hex, so that the list itself is no find.
pub(crate) fn found(wanted: &str) -> Vec<usize> {
    let wanted: Vec<Vec<u8>> = wanted.split(',').filter(|hex| !hex.is_empty()).map(turned_over).collect();
    let at = |wanted: &[u8]| (first()..end()).any(|start| (0..wanted.len()).all(|step| byte(start + step) == Some(!wanted[step])));
    (0..wanted.len()).filter(|place| at(&wanted[*place])).collect()
}

fn turned_over(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(target_arch = "wasm32")]
fn first() -> usize {
    // A null pointer cannot be read.
    1
}

#[cfg(target_arch = "wasm32")]
fn end() -> usize {
    core::arch::wasm32::memory_size(0) << 16
}

#[cfg(target_arch = "wasm32")]
fn byte(at: usize) -> Option<u8> {
    // SAFETY: below the end of the linear memory every byte can be read; volatile, because it belongs to others.
    #[expect(unsafe_code, reason = "a hostile plugin reads what it likes")]
    (at < end()).then(|| unsafe { core::ptr::with_exposed_provenance::<u8>(at).read_volatile() })
}

#[cfg(not(target_arch = "wasm32"))]
fn first() -> usize {
    0
}

#[cfg(not(target_arch = "wasm32"))]
fn end() -> usize {
    0
}

#[cfg(not(target_arch = "wasm32"))]
fn byte(_: usize) -> Option<u8> {
    None
}
