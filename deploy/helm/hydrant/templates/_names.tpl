{{/* Names, labels and annotations. All take the chart's own context. */}}

{{- define "hydrant.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hydrant.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "hydrant.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "hydrant.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What the pods with a hydrant have in common: the network policy and the pod monitor go by it. */}}
{{- define "hydrant.podLabels" -}}
hydrant: {{ include "hydrant.name" . }}
{{- end -}}

{{- define "hydrant.podAnnotations" -}}
{{/* hydrant reads its configuration at start only: a changed one rolls the pods. */ -}}
checksum/hydrant: {{ include "hydrant.config" . | sha256sum }}
{{- if .Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ include "hydrant.adminPort" . | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end -}}
