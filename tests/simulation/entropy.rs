//! Randomness of the standard library, seeded: the seeds of its hash maps, and through them those of Tokio's `select!`,
//! which Tokio lets nobody else choose in a stable build. Knows one function of the C library; refuses to know who asks.
//!
//! The standard library asks `getrandom` by a weak symbol so that it can be interposed for exactly this. Threads that are
//! not seeded get what the kernel gives.

#![expect(unsafe_code, reason = "a symbol of the C library is interposed, in this test binary only")]

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::io::Read as _;

thread_local! {
    static STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on the randomness of this thread comes from `seed`.
pub(crate) fn seed_this_thread(seed: u64) {
    STREAM.set(Some(seed));
}

/// The next of a stream (SplitMix64).
pub(crate) const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `getrandom(2)`.
///
/// # Safety
/// `buffer` has room for `length` bytes, as with the function of the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    // SAFETY: the caller owns `length` bytes at `buffer`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    match STREAM.get() {
        Some(mut state) => {
            for chunk in bytes.chunks_mut(8) {
                let random = next(&mut state).to_le_bytes();
                chunk.copy_from_slice(&random[..chunk.len()]);
            }
            STREAM.set(Some(state));
        }
        None => {
            let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes));
            if read.is_err() {
                return -1;
            }
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
