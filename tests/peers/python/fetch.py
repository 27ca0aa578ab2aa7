"""Fetches and validates all that the Workload API offers, with py-spiffe as it comes."""

import sys

from spiffe import TrustDomain, WorkloadApiClient

with WorkloadApiClient(sys.argv[1]) as client:
    own = TrustDomain("example.org")
    # Two hundred calls on one channel meet evictions of the client's header table.
    for _ in range(200):
        svids = client.fetch_x509_svids()
    for svid in svids:
        print(f"x509 {svid.spiffe_id}")
    bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(own)
    print(f"x509 bundle {own.name} {len(bundle.x509_authorities)}")

    token = client.fetch_jwt_svid(audience={"reports"})
    print(f"jwt {token.spiffe_id}")
    print(f"jwt valid {client.validate_jwt_svid(token.token, 'reports').spiffe_id}")
    try:
        client.validate_jwt_svid(token.token, "other")
    except Exception:
        print("jwt refused for another audience")
    bundles = client.fetch_jwt_bundles()
    print(f"jwt bundle {bundles.get_bundle_for_trust_domain(own).trust_domain.name}")
