{{/*
For a chart that has this one as a dependency, in its pod's template; CONTEXT is .Subcharts.hydrant:

  terminationGracePeriodSeconds: include "hydrant.gracePeriodSeconds" CONTEXT
  serviceAccountName:            include "hydrant.serviceAccountName" CONTEXT
  metadata.labels:               include "hydrant.podLabels" CONTEXT
  metadata.annotations:          include "hydrant.podAnnotations" CONTEXT
  securityContext:               include "hydrant.podSecurityContext" CONTEXT
  initContainers, first:         include "hydrant.sidecar" CONTEXT
  volumeMounts of the producer:  include "hydrant.socketMount" CONTEXT
  volumes:                       include "hydrant.volumes" CONTEXT
*/}}

{{/* An init container that restarts always: starts before the application, and stops after it. */}}
{{- define "hydrant.sidecar" -}}
- {{ include "hydrant.container" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end -}}

{{/* The socket, for the application; read-only keeps it from removing the socket, not from connecting. */}}
{{- define "hydrant.socketMount" -}}
- name: hydrant-socket
  mountPath: /run/hydrant
  readOnly: true
{{- end -}}

{{- define "hydrant.volumes" -}}
- name: hydrant-config
  configMap:
    name: {{ include "hydrant.name" . }}
- name: hydrant-socket
  {{- if eq .Values.mode "sidecar" }}
  # Holds a socket and no data.
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- if .Values.spool.enabled }}
- name: hydrant-spool
  {{- if eq .Values.spool.storage "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.spool.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ include "hydrant.spoolVolume" . }}
  {{- else }}
  # A pod that takes more than that is evicted.
  emptyDir:
    sizeLimit: {{ include "hydrant.spoolVolume" . }}
  {{- end }}
{{- end }}
  {{- else }}
  hostPath:
    path: {{ .Values.daemonset.socketDirectory }}
    type: DirectoryOrCreate
- name: hydrant-state
  hostPath:
    path: {{ .Values.daemonset.stateDirectory }}
    type: DirectoryOrCreate
  {{- end }}
{{- end -}}

{{/* The group of the socket's directory and so of the socket, and one of every container's. */}}
{{- define "hydrant.podSecurityContext" -}}
fsGroup: 65532
{{- end -}}

{{- define "hydrant.container" -}}
name: hydrant
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/bin/hydrant, run, --config, /etc/hydrant/hydrant.yaml]
ports:
  - name: hydrant-admin
    containerPort: {{ include "hydrant.adminPort" . }}
# The socket is there before the admin listener answers.
startupProbe:
  httpGet:
    path: /livez
    port: hydrant-admin
  periodSeconds: 1
  failureThreshold: 30
# Not ready while only a human can help: a rollout with the wrong role stops at its first pod.
readinessProbe:
  httpGet:
    path: /readyz
    port: hydrant-admin
  periodSeconds: 5
livenessProbe:
  httpGet:
    path: /livez
    port: hydrant-admin
  periodSeconds: 10
  timeoutSeconds: 5
resources:
  requests:
    cpu: {{ .Values.cpuRequest }}
    memory: {{ include "hydrant.memory" . }}
    {{- if and .Values.spool.enabled (eq .Values.mode "sidecar") (eq .Values.spool.storage "emptyDir") }}
    ephemeral-storage: {{ include "hydrant.spoolVolume" . }}
    {{- end }}
  limits:
    memory: {{ include "hydrant.memory" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: hydrant-config
    mountPath: /etc/hydrant
    readOnly: true
  - name: hydrant-socket
    mountPath: /run/hydrant
  {{- if eq .Values.mode "daemonset" }}
  - name: hydrant-state
    mountPath: /var/lib/hydrant
  {{- else if .Values.spool.enabled }}
  - name: hydrant-spool
    mountPath: /var/lib/hydrant
  {{- end }}
{{- end -}}
