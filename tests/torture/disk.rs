//! Faults of the disk and death at named places: loss of power, a full disk, refused calls, flipped bits, slow syncs.

mod failpoints;
mod flips;
mod full;
mod homes;
mod load;
mod mount;
mod power;
mod reproductions;
mod shim;
mod slow;
mod storage;
