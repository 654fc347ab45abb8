# shellcheck shell=bash
# Certificates of a cluster, by openssl with elliptic keys: half a second for all. To be sourced after lib.sh.

key() { openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }

# sign NAME SUBJECT EXTENSIONS
sign() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" 2>/dev/null |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(printf '%s\n' "$3") -out "$1.crt" 2>/dev/null
}

# kubeconfig NAME: with its certificate inside, so that the file can be carried to where it is needed.
kubeconfig() {
  cat >"$1.kubeconfig" <<K
apiVersion: v1
kind: Config
current-context: ringway
contexts: [{name: ringway, context: {cluster: ringway, user: $1}}]
clusters: [{name: ringway, cluster: {server: "https://$control:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
K
}

make_pki() (
  mkdir -p "$state/pki"
  chmod 700 "$state/pki"
  cd "$state/pki"
  key ca
  openssl req -x509 -new -key ca.key -subj /CN=ringway-cluster -days 3650 -out ca.crt 2>/dev/null
  key service-accounts
  openssl pkey -in service-accounts.key -pubout -out service-accounts.pub
  sign apiserver /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$control,IP:$control6,IP:10.96.0.1,IP:fd00:10:96::1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
extendedKeyUsage=serverAuth"
  sign apiserver-kubelet "/O=system:masters/CN=kube-apiserver-kubelet-client" extendedKeyUsage=clientAuth
  sign admin "/O=system:masters/CN=admin" extendedKeyUsage=clientAuth
  for name in kube-controller-manager kube-scheduler kube-proxy coredns; do
    sign "$name" "/CN=system:$name" extendedKeyUsage=clientAuth
  done
  for name in $(node_names); do
    sign "$name" "/O=system:nodes/CN=system:node:$name" extendedKeyUsage=clientAuth
  done
  for name in admin kube-controller-manager kube-scheduler kube-proxy coredns $(node_names); do
    kubeconfig "$name"
  done
)
