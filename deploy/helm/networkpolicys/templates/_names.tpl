{{- /* The labels that every object has; the argument is the root. */ -}}
{{- define "networkpolicys.labels" -}}
app.kubernetes.io/part-of: networkpolicys
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What etcd's member of a number is called by the others. */ -}}
{{- define "networkpolicys.etcd.member" -}}
networkpolicys-etcd-{{ .number }}.networkpolicys-etcd.{{ .namespace }}.svc
{{- end }}

{{- define "networkpolicys.etcd.servers" -}}
{{- if .Values.etcd.enabled -}}
{{- $servers := list -}}
{{- range $number := until 3 -}}
{{- $member := include "networkpolicys.etcd.member" (dict "number" $number "namespace" $.Release.Namespace) -}}
{{- $servers = append $servers (printf "https://%s:2379" $member) -}}
{{- end -}}
{{- join "," $servers -}}
{{- else -}}
{{- join "," .Values.etcd.servers -}}
{{- end -}}
{{- end }}

{{- define "networkpolicys.etcd.cluster" -}}
{{- $members := list -}}
{{- range $number := until 3 -}}
{{- $member := include "networkpolicys.etcd.member" (dict "number" $number "namespace" $.Release.Namespace) -}}
{{- $members = append $members (printf "networkpolicys-etcd-%d=https://%s:2380" $number $member) -}}
{{- end -}}
{{- join "," $members -}}
{{- end }}
