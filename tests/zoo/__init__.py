"""The model zoo: small networks of every family that Octavo must quantize well."""
