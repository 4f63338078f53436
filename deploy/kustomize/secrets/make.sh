#!/bin/sh
# Make the authorities and certificates that the secrets beside this script are made of.
# Run again, it renews the certificates under the same authorities.
#
# usage: make.sh [NAMESPACE [DAYS]]
set -eu
namespace=${1:-networkpolicys}
days=${2:-365}
umask 077
mkdir -p "$(dirname "$0")/made"
cd "$(dirname "$0")/made"

authority() { # authority NAME
  [ -e "$1.key" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -days 3650 -subj "/CN=networkpolicys-$1" -keyout "$1.key" -out "$1.crt" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
}

certificate() { # certificate NAME AUTHORITY COMMON-NAME USAGES [ALTERNATIVE-NAMES]
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj "/CN=$3" -keyout "$1.key.new" -out "$1.csr"
  {
    echo basicConstraints=critical,CA:FALSE
    echo keyUsage=critical,digitalSignature
    echo "extendedKeyUsage=$4"
    [ -z "${5-}" ] || echo "subjectAltName=$5"
  } >"$1.extensions"
  openssl x509 -req -in "$1.csr" -days "$days" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial \
    -extfile "$1.extensions" -out "$1.crt"
  mv "$1.key.new" "$1.key"
  rm "$1.csr" "$1.extensions"
}

authority serving-ca
authority etcd-ca
certificate serving serving-ca "networkpolicys.$namespace.svc" serverAuth \
  "DNS:networkpolicys.$namespace.svc,DNS:networkpolicys.$namespace.svc.cluster.local"
members=
for member in 0 1 2; do
  members="${members}DNS:networkpolicys-etcd-$member.networkpolicys-etcd.$namespace.svc,"
done
certificate etcd etcd-ca networkpolicys-etcd serverAuth,clientAuth "${members}DNS:localhost,IP:127.0.0.1"
certificate etcd-client etcd-ca networkpolicys clientAuth

mkdir -p ca-bundle
cat >ca-bundle/kustomization.yaml <<YAML
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
  - patch: |
      apiVersion: apiregistration.k8s.io/v1
      kind: APIService
      metadata:
        name: v1alpha1.net.alpha.kubernetes.io
      spec:
        caBundle: $(base64 -w0 <serving-ca.crt)
YAML
