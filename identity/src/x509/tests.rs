//! Certificates of every shape against the rules, and damaged bytes against the parsers.

mod authority;
mod certificate;
mod chain;
mod csr;
mod leaf;
mod paths;
mod signature;
