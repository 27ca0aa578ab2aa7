//! The server's API as its peers see it: real sockets, real TLS, the store in memory.

#[cfg(test)]
mod agents;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authorization;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod bundles;
#[cfg(test)]
mod downstream;
#[cfg(test)]
mod entries;
#[cfg(test)]
mod federation;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod import;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod life;
#[cfg(test)]
mod localauthority;
#[cfg(test)]
mod mint;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod oidc;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod support;
#[cfg(test)]
mod svids;
#[cfg(test)]
mod trustdomain;
