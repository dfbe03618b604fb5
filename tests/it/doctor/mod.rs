//! `roadcall doctor`: each fault is planted for real in a running site, named, and mended; then nothing is wrong again.

mod data;
mod hub;
mod links;
mod machine;
mod work;
